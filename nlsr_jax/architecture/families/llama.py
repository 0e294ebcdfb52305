"""Llama 2 and 3. Source: transformers' ``LlamaConfig`` and ``modeling_llama``."""

from nlsr_jax.architecture.family import COMMON, Family

FAMILY = Family(
    "llama",
    ("LlamaForCausalLM", "LLaMAForCausalLM", "LlamaModel"),
    {**COMMON, "vocab_size": 32000, "intermediate_size": 11008, "max_position_embeddings": 2048},
    bias_flags=(("attention_bias", ("qkv", "out")), ("mlp_bias", ("mlp",))),
    whole_heads=True,
)
