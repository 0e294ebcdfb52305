"""Gemma 1. Source: transformers' ``GemmaConfig`` and ``modeling_gemma``.

``hidden_act`` ``"gelu"`` stands for its tanh approximation, as in the published configs.
"""

from nlsr_jax.architecture.family import COMMON, Family

GELU = {"gelu_pytorch_tanh": "gelu_tanh"}
DEFAULTS = {**COMMON, "vocab_size": 256000, "max_position_embeddings": 8192, "tie_word_embeddings": True}
BIASES = (("attention_bias", ("qkv", "out")),)

FAMILY = Family(
    "gemma",
    ("GemmaForCausalLM", "GemmaModel"),
    {
        **DEFAULTS,
        "hidden_size": 3072,
        "intermediate_size": 24576,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "head_dim": 256,
        "hidden_act": "gelu_pytorch_tanh",
    },
    norm_offset=1.0,
    norm_wide=True,
    activations={**GELU, "gelu": "gelu_tanh"},
    bias_flags=BIASES,
    scaled_embedding=True,
    derived_head_dim=False,
)
