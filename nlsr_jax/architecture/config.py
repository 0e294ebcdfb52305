"""Llama-family model configs: ``config.json`` → ``ModelConfig``, or the field that is not supported.

Source: transformers' configuration classes of llama, mistral, qwen2 and qwen3 (their defaults included).
"""

import dataclasses
from typing import Any

from nlsr_jax.architecture.fields import flag, positive, short, whole
from nlsr_jax.architecture.quantisation import parse_quantisation
from nlsr_jax.architecture.rope import Rope, parse_rope
from nlsr_jax.errors import InputError

ARCHITECTURES = {
    "llama": ("LlamaForCausalLM", "LLaMAForCausalLM", "LlamaModel"),
    "mistral": ("MistralForCausalLM", "MistralModel"),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Model"),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Model"),
}
_SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
_COMMON: dict[str, Any] = {
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "rms_norm_eps": 1e-6,
    "head_dim": None,
}
_QWEN: dict[str, Any] = {
    **_COMMON,
    "vocab_size": 151936,
    "intermediate_size": 22016,
    "num_key_value_heads": 32,
    "max_position_embeddings": 32768,
}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": {
        **_COMMON,
        "vocab_size": 32000,
        "intermediate_size": 11008,
        "num_key_value_heads": None,
        "max_position_embeddings": 2048,
    },
    "mistral": {
        **_COMMON,
        "vocab_size": 32000,
        "intermediate_size": 14336,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
    },
    "qwen2": _QWEN,
    "qwen3": {**_QWEN, "head_dim": 128},
}
_MOST_LAYERS = 10_000
_REFUSED = {
    "auto_map": "it needs code of its own, which is never run",
    "compression_config": "its weights are quantised; give the full-precision model",
    "num_local_experts": "mixtures of experts are not supported",
    "num_experts": "mixtures of experts are not supported",
    "vision_config": "models that see images are not supported",
    "audio_config": "models that hear are not supported",
    "text_config": "nested models are not supported",
    "per_layer_config": "layers that differ are not supported",
    "pruned_heads": "models with heads taken out are not supported",
    "transformers_weights": "weights under names of their own are not supported; expected model.safetensors",
}
_INERT_ONLY = {
    "is_causal": (True, "attention to later positions is not supported"),
    "partial_rotary_factor": (1, "rotary embeddings of a part of the head are not supported"),
    "is_encoder_decoder": (False, "encoder-decoder models are not supported"),
    "add_cross_attention": (False, "cross attention is not supported"),
}


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Shapes and settings of a Llama-family model; all but the last field decide the numbers it computes.

    Attributes:
      family: ``llama``, ``mistral``, ``qwen2`` or ``qwen3``.
      window: attend to this many latest positions, its own included; None for all.
      windowed: which layers use the window.
      qkv_bias, out_bias, mlp_bias: which projections have a bias.
      qk_norm: RMS norm of every query and key head (Qwen3).
      tied: the output head is the embedding.
      end_tokens: tokens that end an answer; they decide no number, and take no part in comparisons.
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
    end_tokens: tuple[int, ...] = dataclasses.field(default=(), compare=False, repr=False)

    def projections(self) -> dict[str, tuple[int, int]]:
        """Return ``{module: (in-features k, out-features d)}`` of the seven projections."""
        heads, kv = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        d, f = self.hidden_size, self.intermediate_size
        return {
            "q_proj": (d, heads),
            "k_proj": (d, kv),
            "v_proj": (d, kv),
            "o_proj": (heads, d),
            "gate_proj": (d, f),
            "up_proj": (d, f),
            "down_proj": (f, d),
        }


def parse_model_config(config: dict, where: str) -> ModelConfig:
    """Read a Hugging Face model config.

    Args:
      config: the JSON object.
      where: its file, for messages.

    Returns:
      A ``ModelConfig``.

    Raises:
      InputError: a model or a setting that is not supported, or a value that makes no sense.
    """
    family = _family(config, where)
    known = {name: config.get(name, default) for name, default in _DEFAULTS[family].items()}
    sizes = {name: whole(known[name], name, where) for name in (*_SIZES, "max_position_embeddings")}
    whole(sizes["num_hidden_layers"], "num_hidden_layers", where, _MOST_LAYERS)
    heads = sizes["num_attention_heads"]
    kv_heads = known["num_key_value_heads"]
    kv_heads = heads if kv_heads is None else whole(kv_heads, "num_key_value_heads", where)
    if heads % kv_heads:
        raise InputError(f"{where}: num_attention_heads {heads} is no multiple of num_key_value_heads {kv_heads}")
    head_dim = _head_dim(known["head_dim"], sizes["hidden_size"], heads, family, where)
    window, windowed = _window(config, family, sizes["num_hidden_layers"], where)
    bias = flag(config, "attention_bias", where) if family in ("llama", "qwen3") else False
    return ModelConfig(
        family=family,
        vocab_size=sizes["vocab_size"],
        hidden_size=sizes["hidden_size"],
        intermediate_size=sizes["intermediate_size"],
        num_layers=sizes["num_hidden_layers"],
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        eps=positive(known["rms_norm_eps"], "rms_norm_eps", where),
        rope=parse_rope(config, sizes["max_position_embeddings"], where),
        tied=flag(config, "tie_word_embeddings", where),
        qkv_bias=bias or family == "qwen2",
        out_bias=bias,
        mlp_bias=flag(config, "mlp_bias", where) if family == "llama" else False,
        qk_norm=family == "qwen3",
        window=window,
        windowed=windowed,
    )


def _family(config, where) -> str:
    family = config.get("model_type")
    if not isinstance(family, str) or family not in ARCHITECTURES:
        raise InputError(f"{where}: model_type is {short(family)}; supported are {', '.join(ARCHITECTURES)}")
    for name, reason in _REFUSED.items():
        if config.get(name):
            raise InputError(f"{where}: {name} is {short(config[name])}: {reason}")
    for name, (value, reason) in _INERT_ONLY.items():
        if config.get(name) is not None and config[name] != value:
            raise InputError(f"{where}: {name} is {short(config[name])}: {reason}")
    parse_quantisation(config, where)
    named = config.get("architectures") or []
    for name in named if isinstance(named, list) else [named]:
        if name not in ARCHITECTURES[family]:
            raise InputError(f"{where}: architecture {short(name)}; expected {ARCHITECTURES[family][0]}")
    activation = config.get("hidden_act", "silu")
    if activation not in ("silu", "swish"):
        raise InputError(f"{where}: hidden_act is {short(activation)}; expected silu")
    return family


def _head_dim(value, hidden, heads, family, where) -> int:
    derived = value is None and family != "qwen3"  # Qwen3 divides nothing: null is no head_dim there
    if hidden % heads and (derived or family == "llama"):
        raise InputError(f"{where}: hidden_size {hidden} is no multiple of num_attention_heads {heads}")
    head_dim = hidden // heads if derived else whole(value, "head_dim", where)
    if head_dim % 2:
        raise InputError(f"{where}: head_dim is {head_dim}; rotary embeddings need an even number")
    return head_dim


def _window(config, family, layers, where) -> tuple[int | None, tuple[bool, ...]]:
    """Return the attention window and the layers that use it."""
    if family == "llama":
        return None, ()  # transformers reads no window in a llama config
    size = config.get("sliding_window", 4096)
    if family != "mistral" and not flag(config, "use_sliding_window", where):
        size = None
    if size is not None:
        size = whole(size, "sliding_window", where)
    if family == "mistral":
        return size, () if size is None else (True,) * layers
    windowed = _windowed(config, size, layers, where)
    return (size, windowed) if any(windowed) else (None, ())


def _windowed(config, size, layers, where) -> tuple[bool, ...]:
    """Return which layers of a Qwen model use the window."""
    types = config.get("layer_types")
    if types is None:
        first = config.get("max_window_layers", 28)
        if isinstance(first, bool) or not isinstance(first, int):
            raise InputError(f"{where}: max_window_layers is {short(first)}; expected a whole number")
        return tuple(size is not None and i >= first for i in range(layers))
    kinds = ("full_attention", "sliding_attention")
    if not isinstance(types, list) or len(types) != layers or any(kind not in kinds for kind in types):
        raise InputError(f"{where}: layer_types is {short(types)}; expected {layers} of {' or '.join(kinds)}")
    windowed = tuple(kind == kinds[1] for kind in types)
    if size is None and any(windowed):
        raise InputError(f"{where}: layer_types has sliding_attention, but no sliding_window is in use")
    return windowed
