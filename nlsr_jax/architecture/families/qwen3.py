"""Qwen3, dense. Source: transformers' ``Qwen3Config`` and ``modeling_qwen3``."""

from nlsr_jax.architecture.families.qwen2 import DEFAULTS, WINDOW
from nlsr_jax.architecture.family import Family

FAMILY = Family(
    "qwen3",
    ("Qwen3ForCausalLM", "Qwen3Model"),
    {**DEFAULTS, "head_dim": 128},
    qk_norm="head",
    bias_flags=(("attention_bias", ("qkv", "out")),),
    window=WINDOW,
    derived_head_dim=False,  # null is no head_dim there
)
