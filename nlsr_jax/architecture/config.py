"""Model configs: ``config.json`` → ``ModelConfig``, or the field that is not supported.

Source: transformers' configuration classes (their defaults included); see ``families``.
"""

import dataclasses
from typing import Any

from nlsr_jax.architecture.families import FAMILIES
from nlsr_jax.architecture.family import ExpertRule, Family
from nlsr_jax.architecture.fields import cap, check_architectures, flag, positive, short, whole
from nlsr_jax.architecture.nested import OUTER, text_part
from nlsr_jax.architecture.quantisation import parse_quantisation
from nlsr_jax.architecture.rope import Rope, parse_rope, parse_two_ropes, rotary_width
from nlsr_jax.architecture.windows import parse_window
from nlsr_jax.errors import InputError, UnsupportedModel
from nlsr_jax.modules import Slice

_SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
_MOST_LAYERS = 10_000
EXPERT_PROJECTIONS = ("gate_proj", "up_proj", "down_proj")
"""What the projections of an expert are called in the parameter tree."""
_REFUSED = {
    "auto_map": "it needs code of its own, which is never run",
    "compression_config": "its weights are quantised; give the full-precision model",
    "num_local_experts": "mixtures of experts are not supported in this family",
    "num_experts": "mixtures of experts are not supported in this family",
    "vision_config": "models that see images are not supported in this family",
    "audio_config": "models that hear are not supported in this family",
    "text_config": "nested models are not supported in this family",
    "per_layer_config": "layers that differ are not supported",
    "mlp_only_layers": "layers that differ are not supported",
    "pruned_heads": "models with heads taken out are not supported",
    "use_bidirectional_attention": "attention to later positions is not supported",
    "transformers_weights": "weights under names of their own are not supported; expected model.safetensors",
}
_INERT_ONLY = {
    "is_causal": (True, "attention to later positions is not supported"),
    "partial_rotary_factor": (1, "rotary embeddings of a part of the head are not supported in this family"),
    "decoder_sparse_step": (1, "layers that differ are not supported"),
    "is_encoder_decoder": (False, "encoder-decoder models are not supported"),
    "add_cross_attention": (False, "cross attention is not supported"),
}


@dataclasses.dataclass(frozen=True)
class Experts:
    """A mixture of experts.

    Attributes:
      count: E, experts of a layer.
      chosen: how many of them each position goes through.
      size: F, the width of one.
      normalised: whether the weights of the chosen ones sum to 1.
    """

    count: int
    chosen: int
    size: int
    normalised: bool


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Shapes and settings of a model; all but the last two fields decide the numbers it computes.

    Attributes:
      family: the ``model_type`` of its table in ``families``.
      window: attend to this many latest positions, its own included; None for all.
      windowed: which layers use the window.
      qkv_bias, out_bias, mlp_bias: which projections have a bias.
      qk_norm: RMS norm of queries and keys.
      tied: the output head is the embedding.
      activation: of the feed-forward part, ``silu`` or ``gelu_tanh``.
      query_scale: what scores are multiplied by; None for 1/√H.
      attention_cap: c of ``c tanh(s / c)``, applied to the scores of attention; None for no cap.
      logit_cap: the same for the logits.
      local_rope: rotary embedding of the windowed layers; None for that of the others.
      experts: None where the feed-forward part is one.
      end_tokens: tokens that end an answer; they decide no number, and take no part in comparisons.
      nested: whether the files hold the language model inside another model; likewise.
    """

    family: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    eps: float
    rope: Rope
    tied: bool = False
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    window: int | None = None
    windowed: tuple[bool, ...] = ()
    activation: str = "silu"
    query_scale: float | None = None
    attention_cap: float | None = None
    logit_cap: float | None = None
    local_rope: Rope | None = None
    experts: Experts | None = None
    end_tokens: tuple[int, ...] = dataclasses.field(default=(), compare=False, repr=False)
    nested: bool = dataclasses.field(default=False, compare=False, repr=False)

    @property
    def table(self) -> Family:
        """What sets its family apart."""
        return FAMILIES[self.family]

    def attention_widths(self) -> tuple[int, int, int]:
        """Return how many features queries, keys and values have."""
        kv = self.num_kv_heads * self.head_dim
        return self.num_heads * self.head_dim, kv, kv

    def projections(self) -> dict[str, tuple[int, int]]:
        """Return ``{module: (in-features k, out-features d)}`` of the linear layers that are no experts."""
        d, f, widths = self.hidden_size, self.intermediate_size, self.attention_widths()
        fused = self.table.fused
        inputs = (sum(widths),) if fused else widths
        found = {name: (d, width) for name, width in zip(self.table.attention_inputs, inputs, strict=True)}
        found["o_proj"] = (widths[0], d)
        if self.experts is not None:
            return found
        for name in self.table.feed_forward_inputs:
            found[name] = (d, 2 * f if fused else f)
        return {**found, "down_proj": (f, d)}

    def expert_modules(self) -> dict[str, tuple[tuple[str, int], tuple[int, int]]]:
        """Return ``{module: ((own name, expert), (in-features k, out-features d))}`` of one layer's experts."""
        if self.experts is None or self.table.experts is None:
            return {}
        rule, d, f = self.table.experts, self.hidden_size, self.experts.size
        sizes = dict(zip(EXPERT_PROJECTIONS, ((d, f), (d, f), (f, d)), strict=True))
        return {
            f"{rule.experts}.{expert}.{name}": ((own, expert), sizes[own])
            for expert in range(self.experts.count)
            for own, name in zip(EXPERT_PROJECTIONS, rule.projections, strict=True)
        }

    def expert_slices(self) -> dict[str, tuple[tuple[str, int], tuple[int, int]]]:
        """Return the same of the experts as slices of two parameters: ``gate_up_proj`` holds gate above up."""
        if self.experts is None or self.table.experts is None:
            return {}
        path, d, f = self.table.experts.stacked, self.hidden_size, self.experts.size
        sizes = {"gate_up_proj": (d, 2 * f), "down_proj": (f, d)}
        return {
            Slice(f"{path}.{own}", expert).name: ((own, expert), size)
            for own, size in sizes.items()
            for expert in range(self.experts.count)
        }

    def modules(self) -> dict[str, tuple[int, int]]:
        """Return ``{module: (in-features k, out-features d)}`` of all linear layers."""
        return self.projections() | {name: size for name, (_, size) in self.expert_modules().items()}

    def adaptable(self) -> dict[str, tuple[int, int]]:
        """Return the same of all that an adapter may adapt: linear layers, and the experts as slices."""
        return self.modules() | {name: size for name, (_, size) in self.expert_slices().items()}

    def bias(self, module: str) -> bool:
        """Say whether a projection has a bias."""
        if module == "o_proj":
            return self.out_bias
        return self.qkv_bias if module in self.table.attention_inputs else self.mlp_bias


def parse_model_config(config: dict, where: str) -> ModelConfig:
    """Read a Hugging Face model config.

    Args:
      config: the JSON object.
      where: its file, for messages.

    Returns:
      A ``ModelConfig``; of a model that sees or hears, that of its language model.

    Raises:
      InputError: a model or a setting that is not supported, or a value that makes no sense.
    """
    config, nested = text_part(config, where)
    family = _family(config, where)
    known = {name: config.get(name, default) for name, default in family.defaults.items()}
    sizes = {name: whole(known[name], name, where) for name in (*_SIZES, "max_position_embeddings")}
    whole(sizes["num_hidden_layers"], "num_hidden_layers", where, _MOST_LAYERS)
    heads = sizes["num_attention_heads"]
    kv_heads = known["num_key_value_heads"]
    kv_heads = heads if kv_heads is None else whole(kv_heads, "num_key_value_heads", where)
    if heads % kv_heads:
        raise InputError(f"{where}: num_attention_heads {heads} is no multiple of num_key_value_heads {kv_heads}")
    head_dim = _head_dim(known["head_dim"], sizes["hidden_size"], heads, family, where)
    window, windowed = parse_window(config, family.window, sizes["num_hidden_layers"], where)
    biased = _biased(config, family, where)
    rope, local = _ropes(config, sizes["max_position_embeddings"], family, head_dim, any(windowed), where)
    return ModelConfig(
        family=family.model_type,
        vocab_size=sizes["vocab_size"],
        hidden_size=sizes["hidden_size"],
        intermediate_size=sizes["intermediate_size"],
        num_layers=sizes["num_hidden_layers"],
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        eps=positive(known["rms_norm_eps"], "rms_norm_eps", where),
        rope=rope,
        tied=flag(known, "tie_word_embeddings", where),
        qkv_bias="qkv" in biased,
        out_bias="out" in biased,
        mlp_bias="mlp" in biased,
        qk_norm=family.qk_norm is not None,
        window=window,
        windowed=windowed,
        activation=_activation(config, family, where),
        query_scale=_query_scale(config, family, where),
        attention_cap=cap(config, "attn_logit_softcapping", family.attention_cap, where),
        logit_cap=cap(config, "final_logit_softcapping", family.logit_cap, where),
        local_rope=local,
        experts=_experts(known, config, family.experts, where),
        nested=nested,
    )


def _family(config, where) -> Family:
    name = config.get("model_type")
    if not isinstance(name, str) or name not in FAMILIES:
        supported = ", ".join([*FAMILIES, *OUTER])
        raise UnsupportedModel(f"{where}: model_type is {short(name)}; supported are {supported}")
    family = FAMILIES[name]
    for field, reason in _REFUSED.items():
        if config.get(field) and field not in family.reads:
            raise UnsupportedModel(f"{where}: {field} is {short(config[field])}: {reason}")
    for field, (value, reason) in _INERT_ONLY.items():
        if config.get(field) is not None and config[field] != value and field not in family.reads:
            raise InputError(f"{where}: {field} is {short(config[field])}: {reason}")
    parse_quantisation(config, where)
    check_architectures(config, family.architectures, where)
    return family


def _activation(config, family: Family, where) -> str:
    field = family.activation_field
    name = config.get(field, family.defaults.get(field, "silu"))
    if not isinstance(name, str) or name not in family.activations:
        raise InputError(f"{where}: {field} is {short(name)}; expected {' or '.join(family.activations)}")
    return family.activations[name]


def _biased(config, family: Family, where) -> set[str]:
    found = set(family.biased)
    for field, parts in family.bias_flags:
        if flag(config, field, where):
            found |= set(parts)
    return found


def _head_dim(value, hidden, heads, family: Family, where) -> int:
    derived = value is None and family.derived_head_dim
    if hidden % heads and (derived or family.whole_heads):
        raise InputError(f"{where}: hidden_size {hidden} is no multiple of num_attention_heads {heads}")
    head_dim = hidden // heads if derived else whole(value, "head_dim", where)
    if head_dim % 2:
        raise InputError(f"{where}: head_dim is {head_dim}; rotary embeddings need an even number")
    return head_dim


def _ropes(config, length, family: Family, head_dim, windowed: bool, where) -> tuple[Rope, Rope | None]:
    if family.local_theta is not None:
        rope, local = parse_two_ropes(config, length, where, family)
        return rope, local if windowed else None
    rope = parse_rope(config, length, where, family, head_dim)
    if rotary_width(rope.partial, head_dim) % 2 or not rotary_width(rope.partial, head_dim):
        raise InputError(
            f"{where}: partial_rotary_factor is {rope.partial}, of heads of {head_dim}; rotary embeddings need an "
            "even number"
        )
    return rope, None


def _query_scale(config, family: Family, where) -> float | None:
    if family.query_scalar is None:
        return None
    value = config.get("query_pre_attn_scalar", family.query_scalar)
    return positive(value, "query_pre_attn_scalar", where) ** -0.5


def _experts(known: dict[str, Any], config, rule: ExpertRule | None, where) -> Experts | None:
    if rule is None:
        return None
    name = next((field for field in rule.count if config.get(field) is not None), rule.count[-1])
    count = whole(config.get(name, known["num_experts"]), name, where)
    chosen = whole(known["num_experts_per_tok"], "num_experts_per_tok", where)
    if chosen > count:
        raise InputError(f"{where}: num_experts_per_tok is {chosen}, of {count} experts")
    normalised = flag(config, "norm_topk_prob", where) if rule.normalised is None else rule.normalised
    return Experts(count, chosen, whole(known[rule.size], rule.size, where), normalised)
