"""A model's ``config.json``, as transformers reads it."""

from typing import Any

from nlsr_jax.architecture.config import ModelConfig
from nlsr_jax.architecture.rope import Rope


def config_to_json(config: ModelConfig) -> dict[str, Any]:
    """Return a ``config.json`` that transformers reads as the same model."""
    c, family = config, config.table
    fields: dict[str, Any] = {
        "architectures": [family.architectures[0]],
        "model_type": c.family,
        family.activation_field: _activation(c),
        "vocab_size": c.vocab_size,
        "hidden_size": c.hidden_size,
        "intermediate_size": c.intermediate_size,
        "num_hidden_layers": c.num_layers,
        "num_attention_heads": c.num_heads,
        "num_key_value_heads": c.num_kv_heads,
        "head_dim": c.head_dim,
        "rms_norm_eps": c.eps,
        **_rope_fields(c),
        "tie_word_embeddings": c.tied,
        "torch_dtype": "float32",
    }
    if c.end_tokens:
        fields["eos_token_id"] = list(c.end_tokens) if len(c.end_tokens) > 1 else c.end_tokens[0]
    parts = {"qkv": c.qkv_bias, "out": c.out_bias, "mlp": c.mlp_bias}
    if c.family == "phi3":  # transformers fills in 32000 for an absent one, whatever the vocabulary
        fields["pad_token_id"] = None
    fields |= {name: parts[which[0]] for name, which in family.bias_flags}
    return fields | _window_fields(c) | _scale_fields(c) | _expert_fields(c)


def _activation(c: ModelConfig) -> str:
    return next(name for name, own in c.table.activations.items() if own == c.activation)


def _rope_fields(c: ModelConfig) -> dict[str, Any]:
    """Return base and scaling; where windowed layers have their own, both in the form of transformers 5."""
    if c.table.local_theta is None:
        scaling = _scaling(c.rope)
        fields: dict[str, Any] = {"rope_theta": c.rope.theta, "rope_scaling": scaling}
        if c.rope.kind == "longrope":
            fields["original_max_position_embeddings"] = c.rope.original_length
        if c.rope.partial != 1:
            fields["partial_rotary_factor"] = c.rope.partial
        return fields
    kinds = {"full_attention": c.rope, "sliding_attention": c.local_rope or Rope(c.table.local_theta)}
    return {
        "rope_parameters": {
            kind: {"rope_theta": rope.theta, **(_scaling(rope) or {"rope_type": "default"})}
            for kind, rope in kinds.items()
        }
    }


def _scaling(rope: Rope) -> dict[str, Any] | None:
    if rope.kind == "linear":
        return {"rope_type": "linear", "factor": rope.factor}
    if rope.kind == "llama3":
        return {
            "rope_type": "llama3",
            "factor": rope.factor,
            "low_freq_factor": rope.low_freq_factor,
            "high_freq_factor": rope.high_freq_factor,
            "original_max_position_embeddings": rope.original_length,
        }
    if rope.kind == "longrope":
        return {
            "rope_type": "longrope",
            "short_factor": list(rope.short_factors),
            "long_factor": list(rope.long_factors),
            "attention_factor": rope.amplitude,
        }
    return None


def _window_fields(c: ModelConfig) -> dict[str, Any]:
    rule = c.table.window
    if rule is None:
        return {}
    fields: dict[str, Any] = {"sliding_window": c.window}
    if rule.flagged:
        fields["use_sliding_window"] = c.window is not None
    if rule.layers != "all":
        kinds = c.windowed or (False,) * c.num_layers
        fields["layer_types"] = ["sliding_attention" if w else "full_attention" for w in kinds]
    return fields


def _scale_fields(c: ModelConfig) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if c.query_scale is not None:
        scalar = c.query_scale**-2
        fields["query_pre_attn_scalar"] = round(scalar) if abs(scalar - round(scalar)) < 1e-6 else scalar
    if c.table.attention_cap != 0:
        fields["attn_logit_softcapping"] = c.attention_cap
    if c.table.logit_cap != 0:
        fields["final_logit_softcapping"] = c.logit_cap
    return fields


def _expert_fields(c: ModelConfig) -> dict[str, Any]:
    if c.experts is None or c.table.experts is None:
        return {}
    fields = {
        "num_local_experts": c.experts.count,
        "num_experts_per_tok": c.experts.chosen,
        c.table.experts.size: c.experts.size,
    }
    return fields if c.table.experts.normalised is not None else {**fields, "norm_topk_prob": c.experts.normalised}
