"""The terms in which a family of models is described; ``architecture/families`` has one table per family.

A table says what ``config.json`` means, which norms, biases and modules a decoder layer has, and what files call
them. The config reader, the weight table and the decoder layer interpret tables; none of them names a family.
"""

import dataclasses
import types
from collections.abc import Mapping
from typing import Any

COMMON: Mapping[str, Any] = types.MappingProxyType(
    {
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": None,
        "rms_norm_eps": 1e-6,
        "head_dim": None,
        "tie_word_embeddings": False,
    }
)
"""Defaults of ``config.json`` that many families share."""
SILU: Mapping[str, str] = types.MappingProxyType({"silu": "silu", "swish": "silu"})
PRE_NORMS = (("input_norm", "input_layernorm"), ("post_norm", "post_attention_layernorm"))
"""Norms before attention and before the feed-forward part."""
FOUR_NORMS = (
    ("input_norm", "input_layernorm"),
    ("attended_norm", "post_attention_layernorm"),
    ("post_norm", "pre_feedforward_layernorm"),
    ("fed_norm", "post_feedforward_layernorm"),
)
"""Norms before and after both parts of a layer."""


@dataclasses.dataclass(frozen=True)
class WindowRule:
    """Which layers attend to the latest positions only.

    Attributes:
      default: of ``sliding_window``.
      layers: ``"all"``; ``"listed"`` by ``layer_types``, else from ``max_window_layers`` on; or ``"periodic"`` by
        ``layer_types``, else all but every ``period``-th.
      period: of ``"periodic"``.
      period_field: the config field with the period, where there is one.
      flagged: whether the window counts only where ``use_sliding_window`` is set.
    """

    default: int | None
    layers: str = "all"
    period: int = 0
    period_field: str | None = None
    flagged: bool = False


@dataclasses.dataclass(frozen=True)
class ExpertRule:
    """A mixture of experts in place of the feed-forward part.

    Attributes:
      router: path of the router inside its decoder layer, as files name it.
      experts: path of the list of experts.
      projections: what files call ``gate_proj``, ``up_proj`` and ``down_proj`` of one expert.
      size: the config field with the width of one expert.
      count: the config fields with the number of experts; the first that is given counts.
      normalised: whether the weights of the chosen experts are made to sum to 1; None to read ``norm_topk_prob``.
      wide: whether these weights stay in float32.
      stacked: path of what holds the experts where each projection of all of them is one parameter, as in
        transformers 5.
    """

    router: str
    experts: str
    projections: tuple[str, str, str]
    size: str
    count: tuple[str, ...] = ("num_local_experts", "num_experts")
    normalised: bool | None = None
    wide: bool = False
    stacked: str = "mlp.experts"


@dataclasses.dataclass(frozen=True)
class Family:
    """One family of decoder-only language models.

    Attributes:
      model_type: as in ``config.json``.
      architectures: class names that ``config.json`` may give.
      defaults: of fields of ``config.json``, as transformers sets them.
      norms: ``(name in the parameter tree, name in files)`` of the layer's norms. ``input_norm`` and ``post_norm``
        come before attention and the feed-forward part, ``attended_norm`` and ``fed_norm`` after them.
      norm_offset: added to the scale of every norm.
      norm_wide: whether a norm is scaled in float32, before its result is rounded.
      qk_norm: norm of queries and keys: ``"head"`` by head, ``"whole"`` over the projection, None for none.
      activation_field: the config field with the activation.
      activations: ``{name in config.json: name of the function}``.
      bias_flags: config fields that give biases to ``"qkv"``, ``"out"`` or ``"mlp"``.
      biased: parts that always have biases.
      fused: whether queries, keys and values are one projection, and so are gate and up.
      window: None where every layer attends to all positions.
      query_scalar: default of ``query_pre_attn_scalar``; None where queries are scaled by the head dim.
      attention_cap, logit_cap: defaults of ``attn_logit_softcapping`` and ``final_logit_softcapping``; 0 where the
        family does not read the field.
      scaled_embedding: whether embeddings are multiplied by the root of the hidden size.
      rope_theta: default base of the rotary embedding.
      local_theta: default base in windowed layers; None where all layers have one rotary embedding.
      rope_kinds: kinds of rotary scaling that the family takes.
      partial_rotary: whether ``partial_rotary_factor`` is read.
      derived_head_dim: whether ``head_dim`` may be left to the hidden size and the number of heads.
      whole_heads: whether the heads have to divide the hidden size even where ``head_dim`` is given.
      experts: None where the feed-forward part is one.
      reads: fields that other families refuse, and this one reads.
    """

    model_type: str
    architectures: tuple[str, ...]
    defaults: Mapping[str, Any]
    norms: tuple[tuple[str, str], ...] = PRE_NORMS
    norm_offset: float = 0.0
    norm_wide: bool = False
    qk_norm: str | None = None
    activation_field: str = "hidden_act"
    activations: Mapping[str, str] = dataclasses.field(default_factory=lambda: SILU)
    bias_flags: tuple[tuple[str, tuple[str, ...]], ...] = ()
    biased: tuple[str, ...] = ()
    fused: bool = False
    window: WindowRule | None = None
    query_scalar: float | None = None
    attention_cap: float | None = 0.0
    logit_cap: float | None = 0.0
    scaled_embedding: bool = False
    rope_theta: float = 10000.0
    local_theta: float | None = None
    rope_kinds: tuple[str, ...] = ("default", "linear", "llama3")
    partial_rotary: bool = False
    derived_head_dim: bool = True
    whole_heads: bool = False
    experts: ExpertRule | None = None
    reads: tuple[str, ...] = ()

    @property
    def attention_inputs(self) -> tuple[str, ...]:
        """Modules that make queries, keys and values."""
        return ("qkv_proj",) if self.fused else ("q_proj", "k_proj", "v_proj")

    @property
    def feed_forward_inputs(self) -> tuple[str, ...]:
        """Modules that make gate and up."""
        return ("gate_up_proj",) if self.fused else ("gate_proj", "up_proj")
