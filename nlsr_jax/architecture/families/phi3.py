"""Phi-3, Phi-3.5 and Phi-4. Source: transformers' ``Phi3Config`` and ``modeling_phi3``."""

from nlsr_jax.architecture.family import COMMON, Family, WindowRule

FAMILY = Family(
    "phi3",
    ("Phi3ForCausalLM", "Phi3Model"),
    {
        **COMMON,
        "vocab_size": 32064,
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "max_position_embeddings": 4096,
        "original_max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
    },
    fused=True,
    window=WindowRule(None),
    rope_kinds=("default", "longrope"),
    partial_rotary=True,
    reads=("partial_rotary_factor",),
)
