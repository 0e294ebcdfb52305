"""Mistral. Source: transformers' ``MistralConfig`` and ``modeling_mistral``."""

from nlsr_jax.architecture.family import COMMON, Family, WindowRule

FAMILY = Family(
    "mistral",
    ("MistralForCausalLM", "MistralModel"),
    {
        **COMMON,
        "vocab_size": 32000,
        "intermediate_size": 14336,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
    },
    window=WindowRule(4096),
)
