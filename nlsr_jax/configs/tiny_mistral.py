"""The toy study on a base of Mistral's shape: a sliding window of 24 tokens, heads of 32 dimensions.

nlsr pretrain --config tiny_mistral --output checkpoints/runs/mistral    # 5 minutes
"""

import dataclasses

from nlsr_jax.configs import tiny
from nlsr_jax.study.config import StudyConfig

ARCHITECTURE = (
    *(pair for pair in tiny.LLAMA if pair[0] not in ("model_type", "architectures")),
    ("model_type", "mistral"),
    ("architectures", ("MistralForCausalLM",)),
    ("head_dim", 32),
    ("sliding_window", 24),
)


def get_config() -> StudyConfig:
    """Return the study: the tiny recipe, not tuned for this base."""
    config = tiny.get_config()
    assert config.pretraining is not None
    pretraining = dataclasses.replace(config.pretraining, architecture=ARCHITECTURE)
    base = tiny.ROOT / "checkpoints" / "tiny-mistral" / "base"
    return dataclasses.replace(config, name="tiny_mistral", base=str(base), pretraining=pretraining)
