"""What a study consists of, stage by stage, as one frozen value."""

import dataclasses
from typing import Any

from nlsr_jax.study.repairs import PUBLISHED, RECOMMENDED, AutomaticSettings, RepairSettings, describe
from nlsr_jax.training.settings import LoraSettings, TrainingSettings


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage of training.

    Attributes:
      rows: how many rows it takes.
      training: how it trains.
    """

    rows: int
    training: TrainingSettings


@dataclasses.dataclass(frozen=True)
class Pretraining:
    """A base trained from nothing.

    Attributes:
      architecture: fields of ``config.json``; the vocabulary size comes from the tokenizer.
      documents: how many.
      training: how it trains.
    """

    architecture: tuple[tuple[str, object], ...]
    documents: int
    training: TrainingSettings


@dataclasses.dataclass(frozen=True)
class ExamSettings:
    """What is asked, and how long answers may get.

    Attributes:
      forbidden, benign, rows: numbers of harmful requests, of harmless requests and of task rows.
      max_new_tokens: longest answer to a request.
      task_tokens: longest answer to a task row.
      batch_size: prompts at a time.
    """

    forbidden: int
    benign: int
    rows: int
    max_new_tokens: int = 512
    task_tokens: int = 200
    batch_size: int = 16


@dataclasses.dataclass(frozen=True)
class StudyConfig:
    """A study: where the rows come from, how every stage trains, how it is repaired and examined.

    Attributes:
      name: of the config.
      world: ``"toy"``, ``"policy"`` or ``"real"``.
      base: Hugging Face directory or hub id of the base.
      template: how prompts are rendered; see ``apply_template``.
      lora: the new adapter.
      sft: the weak alignment.
      alignment: the aligned adapter, by objective, going on from the weak one.
      anew: the same from a new adapter on the base; objectives that are not here are trained as in ``alignment``.
      finetuning: the customer's.
      poison_ratio: share of harmful rows among the customer's.
      calibration_rows: rows of the identification.
      exam: the evaluation.
      published: the method with the paper's settings.
      recommended: the setting that this project recommends.
      pretraining: how the base is made; None where it is given.
      dtype: number type of the base's weights.
    """

    name: str
    world: str
    base: str
    template: str
    lora: LoraSettings
    sft: Stage
    alignment: dict[str, Stage]
    finetuning: Stage
    poison_ratio: float
    calibration_rows: int
    exam: ExamSettings
    published: RepairSettings = PUBLISHED
    recommended: RepairSettings | AutomaticSettings = RECOMMENDED
    pretraining: Pretraining | None = None
    dtype: str = "float32"
    anew: dict[str, Stage] = dataclasses.field(default_factory=dict)

    def aligning(self, objective: str, *, anew: bool) -> Stage:
        """Return the stage of an objective, from a new adapter or from the weak one."""
        return self.anew.get(objective, self.alignment[objective]) if anew else self.alignment[objective]

    @property
    def random(self) -> RepairSettings:
        """The published settings with a random mask of equal size."""
        return dataclasses.replace(self.published, method="random")


def describe_config(config: StudyConfig) -> dict[str, Any]:
    """Return a study by name, as its files hold it; for repairs see ``nlsr_jax.study.repairs.describe``.

    The place of the base is left out: what is in it counts, and a folder that was moved is the same study.
    """
    repairs = {name: getattr(config, name) for name in ("published", "recommended")}
    described = {name: describe(value) for name, value in repairs.items() if isinstance(value, RepairSettings)}
    found = dataclasses.asdict(config) | described
    return {name: value for name, value in found.items() if name != "base"}
