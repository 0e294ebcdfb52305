"""Qwen3, mixture of experts. Source: transformers' ``Qwen3MoeConfig`` and ``modeling_qwen3_moe``."""

from nlsr_jax.architecture.families.qwen2 import DEFAULTS
from nlsr_jax.architecture.family import ExpertRule, Family, WindowRule

FAMILY = Family(
    "qwen3_moe",
    ("Qwen3MoeForCausalLM", "Qwen3MoeModel"),
    {
        **DEFAULTS,
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "num_hidden_layers": 24,
        "num_key_value_heads": 4,
        "moe_intermediate_size": 768,
        "num_experts": 128,
        "num_experts_per_tok": 8,
    },
    qk_norm="head",
    bias_flags=(("attention_bias", ("qkv", "out")),),
    window=WindowRule(4096, flagged=True),
    experts=ExpertRule("mlp.gate", "mlp.experts", ("gate_proj", "up_proj", "down_proj"), "moe_intermediate_size"),
    reads=("num_experts", "num_local_experts"),
)
