"""Mixtral. Source: transformers' ``MixtralConfig`` and ``modeling_mixtral``."""

from nlsr_jax.architecture.family import COMMON, ExpertRule, Family, WindowRule

FAMILY = Family(
    "mixtral",
    ("MixtralForCausalLM", "MixtralModel"),
    {
        **COMMON,
        "vocab_size": 32000,
        "intermediate_size": 14336,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "num_experts": 8,
        "num_experts_per_tok": 2,
    },
    window=WindowRule(None),
    rope_theta=1_000_000.0,
    experts=ExpertRule(
        "block_sparse_moe.gate",
        "block_sparse_moe.experts",
        ("w1", "w3", "w2"),
        "intermediate_size",
        normalised=True,
        wide=True,
    ),
    reads=("num_experts", "num_local_experts"),
)
