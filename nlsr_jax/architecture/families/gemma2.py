"""Gemma 2. Source: transformers' ``Gemma2Config`` and ``modeling_gemma2``."""

from nlsr_jax.architecture.families.gemma import BIASES, DEFAULTS, GELU
from nlsr_jax.architecture.family import FOUR_NORMS, Family, WindowRule

FAMILY = Family(
    "gemma2",
    ("Gemma2ForCausalLM", "Gemma2Model"),
    {
        **DEFAULTS,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "hidden_activation": "gelu_pytorch_tanh",
    },
    norms=FOUR_NORMS,
    norm_offset=1.0,
    norm_wide=True,
    activation_field="hidden_activation",
    activations=GELU,
    bias_flags=BIASES,
    window=WindowRule(4096, "periodic", period=2),
    query_scalar=256.0,
    attention_cap=50.0,
    logit_cap=30.0,
    scaled_embedding=True,
    derived_head_dim=False,
    whole_heads=True,
)
