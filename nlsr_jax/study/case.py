"""The stages of one study: alignment, customer's rows, fine-tuning, calibration rows."""

import time
from collections.abc import Sequence
from typing import NamedTuple

import jax

from nlsr_jax.adapter import Adapter
from nlsr_jax.data.examples import Example, Preference
from nlsr_jax.random_streams import stream
from nlsr_jax.study.config import StudyConfig
from nlsr_jax.study.repairs import (
    calibration_batches,
)
from nlsr_jax.study.stages import Base, train_adapter
from nlsr_jax.study.worlds import World
from nlsr_jax.training.initial import new_adapter


class Aligned(NamedTuple):
    """The adapters of the alignment.

    Attributes:
      weak: after SFT on safe answers.
      aligned: after the preference stage, which starts from ``weak``.
      seconds: duration of both stages.
    """

    weak: Adapter
    aligned: Adapter
    seconds: float


class Case(NamedTuple):
    """The case of a row: task, share of harmful rows and seed."""

    task: str
    poison_ratio: float
    seed: int

    @property
    def stage(self) -> str:
        """Name of its fine-tuning stage, for ``stage_key``."""
        return f"finetune {self.task}"


def stage_key(seed: int, stage: str) -> jax.Array:
    """Return the key of a stage, such as ``"align dpo"`` or ``"finetune sst2"``."""
    return stream(jax.random.key(seed), stage)


def alignment_rows(
    key: jax.Array, world: World, objective: str, count: int
) -> Sequence[Example] | Sequence[Preference]:
    """Return the rows of an alignment stage: safe answers for SFT, good and bad answers for KTO, else pairs.

    Args:
      key: key of the stage.
      world: source of the rows.
      objective: one of ``OBJECTIVES``.
      count: number of rows.
    """
    draw = {"sft": world.safe_rows, "kto": world.unpaired}.get(objective, world.preferences)
    return draw(stream(key, "rows"), count)


def align_stage(
    base: Base,
    world: World,
    config: StudyConfig,
    seed: int,
    objective: str,
    start: Adapter | None = None,
    *,
    show: bool = False,
) -> Adapter:
    """Align with one objective.

    Args:
      base, world, config: base, world and configuration of the study.
      seed: seed of rows, initial factors and order.
      objective: one of ``config.alignment``.
      start: adapter to continue from; None for a new one.
      show: show progress.
    """
    stage = config.aligning(objective, anew=start is None)
    key = stage_key(seed, f"align {objective}")
    if start is None:
        start = new_adapter(stream(key, "lora"), base.model.config, config.lora)
    rows = alignment_rows(key, world, objective, stage.rows)
    return train_adapter(key, base, start, rows, stage.training, description=f"align {objective}", show=show)


def align(
    base: Base, world: World, config: StudyConfig, seed: int, objective: str = "dpo", *, show: bool = False
) -> Aligned:
    """Align a base: SFT on safe answers, then a preference objective.

    Args:
      base, world, config: base, world and configuration of the study.
      seed: seed of rows, initial factors and order.
      objective: one of ``config.alignment``; with ``"sft"`` the weak adapter is also the aligned one.
      show: show progress.
    """
    started = time.perf_counter()
    weak = align_stage(base, world, config, seed, "sft", show=show)
    aligned = weak if objective == "sft" else align_stage(base, world, config, seed, objective, weak, show=show)
    return Aligned(weak, aligned, time.perf_counter() - started)


class Tuned(NamedTuple):
    """A fine-tuned adapter, and the duration of its training in seconds."""

    adapter: Adapter
    seconds: float


def customer_rows(key: jax.Array, world: World, case: Case, count: int) -> list[Example]:
    """Return the customer's rows of a case; ``key`` is the key of its stage."""
    return world.customer_rows(stream(key, "rows"), case.task, count, case.poison_ratio)


def finetune(
    base: Base, world: World, config: StudyConfig, aligned: Adapter, case: Case, *, show: bool = False
) -> Tuned:
    """Fine-tune an aligned adapter on a customer's rows, a share of which is harmful."""
    started = time.perf_counter()
    key, stage = stage_key(case.seed, case.stage), config.finetuning
    rows = customer_rows(key, world, case, stage.rows)
    adapter = train_adapter(key, base, aligned, rows, stage.training, description=case.stage, show=show)
    return Tuned(jax.block_until_ready(adapter), time.perf_counter() - started)


def calibration_rows(world: World, config: StudyConfig, seed: int) -> list[Example]:
    """Return the calibration rows of a seed's identification."""
    return world.calibration(stream(stage_key(seed, "realign"), "calibration rows"), config.calibration_rows)


def identification_rows(
    world: World, config: StudyConfig, seed: int, method: str
) -> Sequence[Example] | Sequence[Preference]:
    """Return the rows for an identification method: safe answers, or pairs for ``preference_snip``."""
    if method != "preference_snip":
        return calibration_rows(world, config, seed)
    return world.harmful_pairs(stream(stage_key(seed, "realign"), "calibration pairs"), config.calibration_rows)


def gain_batches(base: Base, world: World, config: StudyConfig, seed: int) -> list[tuple]:
    """Return the batches for a seed's automatic choice."""
    rows = identification_rows(world, config, seed, "gain")
    return calibration_batches(base, rows, 50, config.sft.training.max_length)
