"""The toy study in its smallest form, for tests that need all of its stages."""

import dataclasses

from nlsr_jax import configs
from nlsr_jax.study.config import ExamSettings
from nlsr_jax.training.settings import LoraSettings


def smaller(stage, rows):
    return dataclasses.replace(stage, rows=rows, training=dataclasses.replace(stage.training, epochs=1))


def small_config():
    """The tiny config with a handful of rows, and an adapter of two modules: less to compile."""
    tiny = configs.get("tiny")
    return dataclasses.replace(
        tiny,
        lora=LoraSettings(tiny.lora.rank, tiny.lora.alpha, ("q_proj", "down_proj")),
        pretraining=dataclasses.replace(tiny.pretraining, documents=320),
        sft=smaller(tiny.sft, 32),
        alignment={name: smaller(stage, 16) for name, stage in tiny.alignment.items()},
        finetuning=smaller(tiny.finetuning, 40),
        calibration_rows=20,
        exam=ExamSettings(forbidden=14, benign=10, rows=9, max_new_tokens=8, task_tokens=8, batch_size=33),
        published=dataclasses.replace(tiny.published, draws=2),
    )
