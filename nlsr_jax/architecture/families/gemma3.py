"""Gemma 3, its text part. Source: transformers' ``Gemma3TextConfig`` and ``modeling_gemma3``.

``attn_logit_softcapping`` is in its configs, and its attention does not use it.
"""

import dataclasses

from nlsr_jax.architecture.families.gemma2 import FAMILY as GEMMA2
from nlsr_jax.architecture.family import WindowRule

FAMILY = dataclasses.replace(
    GEMMA2,
    model_type="gemma3_text",
    architectures=("Gemma3ForCausalLM", "Gemma3TextModel"),
    defaults={**GEMMA2.defaults, "vocab_size": 262208, "max_position_embeddings": 131072},
    qk_norm="head",
    window=WindowRule(4096, "periodic", period=6, period_field="sliding_window_pattern"),
    attention_cap=0.0,
    logit_cap=None,
    rope_theta=1_000_000.0,
    local_theta=10_000.0,
)
