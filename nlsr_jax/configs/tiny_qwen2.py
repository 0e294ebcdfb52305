"""The toy study on a base of Qwen2's shape: biases on the queries, keys and values.

nlsr pretrain --config tiny_qwen2 --output checkpoints/runs/qwen2    # 5 minutes
"""

import dataclasses

from nlsr_jax.configs import tiny
from nlsr_jax.study.config import StudyConfig

ARCHITECTURE = (
    *(pair for pair in tiny.LLAMA if pair[0] not in ("model_type", "architectures")),
    ("model_type", "qwen2"),
    ("architectures", ("Qwen2ForCausalLM",)),
)


def get_config() -> StudyConfig:
    """Return the study: the tiny recipe, not tuned for this base."""
    config = tiny.get_config()
    assert config.pretraining is not None
    pretraining = dataclasses.replace(config.pretraining, architecture=ARCHITECTURE)
    base = tiny.ROOT / "checkpoints" / "tiny-qwen2" / "base"
    return dataclasses.replace(config, name="tiny_qwen2", base=str(base), pretraining=pretraining)
