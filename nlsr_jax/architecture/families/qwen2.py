"""Qwen2 and Qwen2.5. Source: transformers' ``Qwen2Config`` and ``modeling_qwen2``."""

from nlsr_jax.architecture.family import COMMON, Family, WindowRule

DEFAULTS = {
    **COMMON,
    "vocab_size": 151936,
    "intermediate_size": 22016,
    "num_key_value_heads": 32,
    "max_position_embeddings": 32768,
}
WINDOW = WindowRule(4096, "listed", flagged=True)

FAMILY = Family("qwen2", ("Qwen2ForCausalLM", "Qwen2Model"), DEFAULTS, biased=("qkv",), window=WINDOW)
