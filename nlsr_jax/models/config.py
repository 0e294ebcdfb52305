"""Llama-family model configs: ``config.json`` → ``ModelConfig``, or the field that is not supported.

Source: transformers' configuration classes of llama, mistral, qwen2 and qwen3 (their defaults included).
"""

import dataclasses
from typing import Any

from nlsr_jax.errors import InputError

ARCHITECTURES = {
    "llama": ("LlamaForCausalLM", "LLaMAForCausalLM", "LlamaModel"),
    "mistral": ("MistralForCausalLM", "MistralModel"),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Model"),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Model"),
}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": {
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": None,
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 2048,
        "head_dim": None,
    },
    "mistral": {
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 131072,
        "head_dim": None,
    },
    "qwen2": {
        "vocab_size": 151936,
        "hidden_size": 4096,
        "intermediate_size": 22016,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 32768,
        "head_dim": None,
    },
    "qwen3": {
        "vocab_size": 151936,
        "hidden_size": 4096,
        "intermediate_size": 22016,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 32768,
        "head_dim": 128,
    },
}
_REFUSED = {
    "auto_map": "it needs code of its own, which is never run",
    "quantization_config": "its weights are quantised; give the full-precision model",
    "num_local_experts": "mixtures of experts are not supported",
    "num_experts": "mixtures of experts are not supported",
    "vision_config": "models that see images are not supported",
    "audio_config": "models that hear are not supported",
    "text_config": "nested models are not supported",
    "partial_rotary_factor": "rotary embeddings of a part of the head are not supported",
    "per_layer_config": "layers that differ are not supported",
}


@dataclasses.dataclass(frozen=True)
class Rope:
    """Rotary embedding: base ``theta``, and the frequency scaling of Llama 3.1 or a linear factor."""

    theta: float = 10000.0
    kind: str = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_length: int = 8192


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Shapes and settings of a Llama-family model; every field decides the numbers it computes.

    Attributes:
      family: ``llama``, ``mistral``, ``qwen2`` or ``qwen3``.
      window: attend to this many latest positions, its own included; None for all.
      windowed: which layers use the window.
      qkv_bias, out_bias, mlp_bias: which projections have a bias.
      qk_norm: RMS norm of every query and key head (Qwen3).
      tied: the output head is the embedding.
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


def _short(value) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


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
    sizes = {
        name: _whole(value, name, where)
        for name, value in known.items()
        if name not in ("rms_norm_eps", "num_key_value_heads", "head_dim")
    }
    heads = sizes["num_attention_heads"]
    kv_heads = heads if known["num_key_value_heads"] is None else known["num_key_value_heads"]
    kv_heads = _whole(kv_heads, "num_key_value_heads", where)
    if heads % kv_heads:
        raise InputError(f"{where}: num_attention_heads {heads} is no multiple of num_key_value_heads {kv_heads}")
    head_dim = _head_dim(known["head_dim"], sizes["hidden_size"], heads, where)
    window, windowed = _window(config, family, sizes["num_hidden_layers"], where)
    bias = _flag(config, "attention_bias", where) if family in ("llama", "qwen3") else False
    return ModelConfig(
        family=family,
        vocab_size=sizes["vocab_size"],
        hidden_size=sizes["hidden_size"],
        intermediate_size=sizes["intermediate_size"],
        num_layers=sizes["num_hidden_layers"],
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        eps=_positive(known["rms_norm_eps"], "rms_norm_eps", where),
        rope=_rope(config, sizes["max_position_embeddings"], where),
        tied=_flag(config, "tie_word_embeddings", where),
        qkv_bias=bias or family == "qwen2",
        out_bias=bias,
        mlp_bias=_flag(config, "mlp_bias", where) if family == "llama" else False,
        qk_norm=family == "qwen3",
        window=window,
        windowed=windowed,
    )


def _family(config, where) -> str:
    for name, reason in _REFUSED.items():
        value = config.get(name)
        if value and not (name == "partial_rotary_factor" and value == 1.0):
            raise InputError(f"{where}: {name} is {_short(value)}: {reason}")
    family = config.get("model_type")
    if family not in ARCHITECTURES:
        raise InputError(f"{where}: model_type is {_short(family)}; supported are {', '.join(ARCHITECTURES)}")
    named = config.get("architectures") or []
    named = named if isinstance(named, list) else [named]
    for name in named:
        if name not in ARCHITECTURES[family]:
            raise InputError(f"{where}: architecture {_short(name)}; expected {ARCHITECTURES[family][0]}")
    activation = config.get("hidden_act", "silu")
    if activation not in ("silu", "swish"):
        raise InputError(f"{where}: hidden_act is {_short(activation)}; expected silu")
    return family


def _whole(value, name, where) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 2**31:
        raise InputError(f"{where}: {name} is {_short(value)}; expected a positive whole number")
    return value


def _positive(value, name, where) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e30:
        raise InputError(f"{where}: {name} is {_short(value)}; expected a positive number")
    return float(value)


def _flag(config, name, where) -> bool:
    value = config.get(name)
    if value not in (None, True, False) or (isinstance(value, int) and not isinstance(value, bool)):
        raise InputError(f"{where}: {name} is {_short(value)}; expected true or false")
    return bool(value)


def _head_dim(value, hidden, heads, where) -> int:
    if value is not None:
        head_dim = _whole(value, "head_dim", where)
    elif hidden % heads:
        raise InputError(f"{where}: hidden_size {hidden} is no multiple of num_attention_heads {heads}")
    else:
        head_dim = hidden // heads
    if head_dim % 2:
        raise InputError(f"{where}: head_dim is {head_dim}; rotary embeddings need an even number")
    return head_dim


def _window(config, family, layers, where) -> tuple[int | None, tuple[bool, ...]]:
    """Return the attention window and the layers that use it."""
    if family == "llama":
        return None, ()  # transformers reads no window in a llama config
    size = config.get("sliding_window", 4096)
    if family != "mistral" and not _flag(config, "use_sliding_window", where):
        size = None
    if size is None:
        if any(kind == "sliding_attention" for kind in config.get("layer_types") or []):
            raise InputError(f"{where}: layer_types has sliding_attention, but no sliding_window is in use")
        return None, ()
    size = _whole(size, "sliding_window", where)
    if family == "mistral":
        return size, (True,) * layers
    types = config.get("layer_types")
    if types is None:
        first = config.get("max_window_layers", 28)
        if isinstance(first, bool) or not isinstance(first, int) or first < 0:
            raise InputError(f"{where}: max_window_layers is {_short(first)}; expected a whole number")
        return size, tuple(i >= first for i in range(layers))
    kinds = ("full_attention", "sliding_attention")
    if not isinstance(types, list) or len(types) != layers or any(t not in kinds for t in types):
        raise InputError(f"{where}: layer_types is {_short(types)}; expected {layers} of {' or '.join(kinds)}")
    return size, tuple(kind == "sliding_attention" for kind in types)


def _rope(config, max_length, where) -> Rope:
    """Read rope_theta and rope_scaling, or the rope_parameters that newer configs nest them in."""
    nested = config.get("rope_parameters")
    scaling = nested if nested else config.get("rope_scaling")
    if scaling is None:
        scaling = {}
    if not isinstance(scaling, dict):
        raise InputError(f"{where}: rope_scaling is {_short(scaling)}; expected an object")
    theta = scaling.get("rope_theta", config.get("rope_theta", 10000.0))
    theta = _positive(10000.0 if theta is None else theta, "rope_theta", where)
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    partial = scaling.get("partial_rotary_factor", 1.0)
    if partial not in (None, 1.0):
        raise InputError(f"{where}: partial_rotary_factor is {_short(partial)}; expected 1")
    if kind == "default":
        return Rope(theta)
    if kind == "linear":
        return Rope(theta, kind, _positive(scaling.get("factor"), "rope_scaling factor", where))
    if kind != "llama3":
        raise InputError(f"{where}: rope type {_short(kind)} is not supported; expected default, linear or llama3")
    numbers = {
        name: _positive(scaling.get(name), f"rope_scaling {name}", where)
        for name in ("factor", "low_freq_factor", "high_freq_factor")
    }
    if numbers["low_freq_factor"] >= numbers["high_freq_factor"]:
        raise InputError(f"{where}: rope_scaling low_freq_factor must be below high_freq_factor")
    original = scaling.get("original_max_position_embeddings", max_length)
    return Rope(
        theta,
        kind,
        **numbers,
        original_length=_whole(original, "original_max_position_embeddings", where),
    )
