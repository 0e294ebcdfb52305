"""OLMo 2. Source: transformers' ``Olmo2Config`` and ``modeling_olmo2``."""

from nlsr_jax.architecture.family import COMMON, Family

FAMILY = Family(
    "olmo2",
    ("Olmo2ForCausalLM", "Olmo2Model"),
    {
        **COMMON,
        "vocab_size": 50304,
        "intermediate_size": 11008,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
    },
    norms=(("attended_norm", "post_attention_layernorm"), ("fed_norm", "post_feedforward_layernorm")),
    norm_wide=True,
    qk_norm="whole",
    bias_flags=(("attention_bias", ("qkv", "out")),),
)
