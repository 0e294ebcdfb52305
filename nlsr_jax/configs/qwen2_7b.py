r"""Qwen2-7B as in the paper's tables.

  nlsr align --config qwen2_7b --objective sft --output runs/sft
  nlsr align --config qwen2_7b --objective dpo --start runs/sft --output runs/dpo
  nlsr finetune --config qwen2_7b --start runs/dpo --task sst2 --output runs/tuned
  nlsr evaluate --config qwen2_7b --adapter runs/tuned --task sst2 --judge qa_moderation \
      --judge_model DIR --output runs/tuned.json

Reads the base and the data sets from the hub, or from local directories: --base DIR, --data NAME=PATH.
Needs one accelerator with 80 GB of memory or several with less; the paper reports no run times.
"""

from nlsr_jax.configs.paper import paper_config
from nlsr_jax.study.config import StudyConfig


def get_config() -> StudyConfig:
    """Return the study."""
    return paper_config("qwen2_7b", "Qwen/Qwen2-7B")
