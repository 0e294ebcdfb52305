"""The common part of the paper's configs: data sets, recipe, and settings of the method.

Source: NLSR, section on experimental settings, and the authors' scripts: alignment with AdamW at 2e-6 (ORPO
2e-4), three epochs, cosine, batch 8; SFT at 1e-4, batch 16, one epoch; fine-tuning for ten epochs, batch 8.
The learning rate of the fine-tuning is not published; this config uses LoRA's usual 1e-4.
"""

import dataclasses
from typing import Any

from nlsr_jax.study.config import ExamSettings, Stage, StudyConfig
from nlsr_jax.training.settings import LoraSettings, TrainingSettings

_SHARED = TrainingSettings(schedule="cosine", max_length=1024, remat=True, compute_dtype="bfloat16", save_every=50)


def _stage(rows: int, objective: str, rate: float, epochs: int, batch_size: int) -> Stage:
    changes: dict[str, Any] = {
        "objective": objective,
        "learning_rate": rate,
        "epochs": epochs,
        "batch_size": batch_size,
    }
    return Stage(rows, dataclasses.replace(_SHARED, accumulate=batch_size // 2, **changes))


def paper_config(name: str, base: str) -> StudyConfig:
    """Return the paper's study on a base.

    Args:
      name: name of the config.
      base: hub id of the base.
    """
    rates = {"dpo": 2e-6, "orpo": 2e-4, "kto": 2e-6, "simpo": 2e-6}
    sft = _stage(2000, "sft", 1e-4, 1, 16)
    return StudyConfig(
        name=name,
        world="real",
        base=base,
        template="alpaca",
        lora=LoraSettings(rank=128, alpha=256.0),
        sft=sft,
        alignment={"sft": sft, **{name: _stage(2000, name, rate, 3, 8) for name, rate in rates.items()}},
        finetuning=_stage(1000, "sft", 1e-4, 10, 8),
        poison_ratio=0.05,
        calibration_rows=2000,
        exam=ExamSettings(forbidden=1000, benign=200, rows=872, batch_size=32),
        dtype="bfloat16",
    )
