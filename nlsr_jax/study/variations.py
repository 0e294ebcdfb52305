"""Variations of the toy study: the worlds in which the recommended setting was not chosen.

Each is one change of the tiny study, in ``VARIATIONS`` by its name; everything else is as in the tiny study.
"""

import dataclasses
from collections.abc import Mapping

from nlsr_jax.data.toy_styles import (
    FOREIGN_REFUSALS,
    NEW_PHRASINGS,
    OWN_PHRASINGS,
    OWN_REFUSALS,
    Style,
)
from nlsr_jax.data.toy_words import REFUSALS
from nlsr_jax.modules import MODULES, is_attention
from nlsr_jax.study.config import Stage, StudyConfig


@dataclasses.dataclass(frozen=True)
class Variation:
    """One change of the tiny study.

    Attributes:
      config: name of the study's config, which gives the shape of the base.
      seed: seed of the toy world: its words, forbidden categories and evaluation.
      style: how calibration rows and harmless prompts are worded; None for as in the alignment.
      calibration_rows: number of calibration rows; None for the config's.
      alignment_rows: share of the config's alignment rows.
      poison_ratio: share of harmful rows among the customer's; None for the plan's.
      rate: factor of the customer's learning rate.
      rank: of new adapters, with the config's scaling; None for the config's.
      modules: that new adapters have; empty for the config's.
    """

    config: str = "tiny"
    seed: int = 0
    style: Style | None = None
    calibration_rows: int | None = None
    alignment_rows: float = 1.0
    poison_ratio: float | None = None
    rate: float = 1.0
    rank: int | None = None
    modules: tuple[str, ...] = ()

    @property
    def aligned_as_shipped(self) -> bool:
        """Whether the base and the alignment of the instruct model are those of the tiny study."""
        return (self.config, self.seed, self.alignment_rows) == ("tiny", 0, 1.0)

    def aligning(self, config: StudyConfig) -> StudyConfig:
        """Return the config with which the instruct model of this world is aligned."""
        alignment = {name: self._fewer(stage) for name, stage in config.alignment.items()}
        anew = {name: self._fewer(stage) for name, stage in config.anew.items()}
        return dataclasses.replace(config, sft=self._fewer(config.sft), alignment=alignment, anew=anew)

    def _fewer(self, stage: Stage) -> Stage:
        return dataclasses.replace(stage, rows=round(self.alignment_rows * stage.rows))

    def changed(self, config: StudyConfig) -> StudyConfig:
        """Return the config of this world's study, from the one that it names."""
        lora, stage = config.lora, config.finetuning
        rank = self.rank or lora.rank
        lora = dataclasses.replace(
            lora, rank=rank, alpha=lora.alpha * rank / lora.rank, modules=self.modules or lora.modules
        )
        training = dataclasses.replace(stage.training, learning_rate=self.rate * stage.training.learning_rate)
        return dataclasses.replace(
            self.aligning(config),
            lora=lora,
            finetuning=dataclasses.replace(stage, training=training),
            calibration_rows=self.calibration_rows or config.calibration_rows,
        )


VARIATIONS: Mapping[str, Variation] = {
    "other_vocabulary": Variation(style=Style(phrasings=OWN_PHRASINGS, unaligned=True)),
    "other_words": Variation(seed=1),
    "four_refusals": Variation(style=Style(refusals=REFUSALS[4:8])),
    "own_refusals": Variation(style=Style(refusals=OWN_REFUSALS)),
    "few_rows": Variation(calibration_rows=50),
    "poison_half": Variation(poison_ratio=0.5),
    "double_rate": Variation(rate=2.0),
    "rank_4": Variation(rank=4),
    "rank_64": Variation(rank=64),
    "attention_only": Variation(modules=tuple(module for module in MODULES if is_attention(module))),
    "tiny_qwen2": Variation(config="tiny_qwen2"),
    "tiny_mistral": Variation(config="tiny_mistral"),
}
"""The variations by name. No constant of the method was chosen on them; failures there led to two of its rules."""

DEVELOPMENT: Mapping[str, Variation] = {
    "weakly_aligned": Variation(alignment_rows=0.5),
    "poison_third": Variation(poison_ratio=0.35, rate=1.5),
    "foreign_refusals": Variation(style=Style(refusals=FOREIGN_REFUSALS)),
    "late_refusals": Variation(style=Style(refusals=REFUSALS[8:12])),
    "new_phrasings": Variation(style=Style(phrasings=NEW_PHRASINGS, unaligned=True)),
}
"""Worlds on which constants of the choice may be set."""
