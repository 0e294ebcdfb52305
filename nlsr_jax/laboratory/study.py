"""One study from alignment to repair: the adapters, and a row of the results table for every method."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from nlsr_jax.adapter import Adapter
from nlsr_jax.automatic import choose_settings
from nlsr_jax.data.examples import Example, Preference
from nlsr_jax.laboratory.config import StudyConfig
from nlsr_jax.laboratory.evaluation import Exam, Scores, evaluate
from nlsr_jax.laboratory.repairs import (
    AutomaticSettings,
    RepairSettings,
    calibration_batches,
    chosen_settings,
    gather_evidence,
    make_masks,
    make_reference,
    prepare_finetuned,
    repair,
)
from nlsr_jax.laboratory.stages import Base, train_adapter
from nlsr_jax.laboratory.worlds import World
from nlsr_jax.nlsr.realign import Realigned
from nlsr_jax.random_streams import stream
from nlsr_jax.training.initial import new_adapter

ROW = ("method", "task", "poison_ratio", "seed", "hs", "fa", "over_refusal", "benign_answered", "odd", "seconds")
"""Columns of a results table; percentages, and the seconds that making the model took."""


class Aligned(NamedTuple):
    """The adapters of the alignment.

    Attributes:
      weak: after SFT on safe answers.
      aligned: after the preference stage, which went on from it.
      seconds: of both stages together.
    """

    weak: Adapter
    aligned: Adapter
    seconds: float


class Outcome(NamedTuple):
    """What became of one method.

    Attributes:
      row: its row of the results table, with the keys of ``ROW``.
      scores: of every model that the row is the mean of.
      responses: of the first of them, in the order of ``evaluate``.
      repaired: how the first of them was made; None where nothing was realigned.
      settings: that they were realigned with, and the ``aim`` of those that were chosen; none where nothing was.
    """

    row: dict
    scores: list[Scores]
    responses: list[str]
    repaired: Realigned | None
    settings: dict[str, Any]


class Case(NamedTuple):
    """What a row belongs to: the task, the share of harmful rows and the seed."""

    task: str
    poison_ratio: float
    seed: int

    @property
    def stage(self) -> str:
        """Name of its fine-tuning, as ``stage_key`` takes it."""
        return f"finetune {self.task}"


def stage_key(seed: int, stage: str) -> jax.Array:
    """Return the key of a stage, such as ``"align dpo"`` or ``"finetune sst2"``."""
    return stream(jax.random.key(seed), stage)


def alignment_rows(
    key: jax.Array, world: World, objective: str, count: int
) -> Sequence[Example] | Sequence[Preference]:
    """Return the rows of an alignment stage: safe answers for SFT, good and bad ones for KTO, else pairs.

    Args:
      key: of the stage.
      world: where they come from.
      objective: one of ``OBJECTIVES``.
      count: how many.
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
    """Align by one objective.

    Args:
      base, world, config: of the study.
      seed: of rows, initial factors and order.
      objective: one of ``config.alignment``.
      start: the adapter to go on with; None for a new one.
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
    """Align a base: SFT on safe answers, then a preference objective from there.

    Args:
      base, world, config: of the study.
      seed: of rows, initial factors and order.
      objective: one of ``config.alignment``; with ``"sft"`` the weak adapter is the aligned one.
      show: show progress.
    """
    started = time.perf_counter()
    weak = align_stage(base, world, config, seed, "sft", show=show)
    aligned = weak if objective == "sft" else align_stage(base, world, config, seed, objective, weak, show=show)
    return Aligned(weak, aligned, time.perf_counter() - started)


class Tuned(NamedTuple):
    """A fine-tuned adapter, and the seconds that its training took."""

    adapter: Adapter
    seconds: float


def customer_rows(key: jax.Array, world: World, case: Case, count: int) -> list[Example]:
    """Return the customer's rows of a case; ``key`` is that of its stage."""
    return world.customer_rows(stream(key, "rows"), case.task, count, case.poison_ratio)


def finetune(
    base: Base, world: World, config: StudyConfig, aligned: Adapter, case: Case, *, show: bool = False
) -> Tuned:
    """Fine-tune an aligned adapter on a customer's rows, of which a share is harmful."""
    started = time.perf_counter()
    key, stage = stage_key(case.seed, case.stage), config.finetuning
    rows = customer_rows(key, world, case, stage.rows)
    adapter = train_adapter(key, base, aligned, rows, stage.training, description=case.stage, show=show)
    return Tuned(jax.block_until_ready(adapter), time.perf_counter() - started)


class Bench:
    """Evaluates models and realigns adapters of one study on equal terms.

    Args:
      base, world, config: of the study.
      case: what is studied.
      exam: what models are asked.
    """

    def __init__(self, base: Base, world: World, config: StudyConfig, case: Case, exam: Exam):
        self.base, self.world, self.config, self.case, self.exam = base, world, config, case, exam

    def outcome(
        self, method: str, adapters: list[Adapter | None], seconds: float, repaired: Realigned | None = None
    ) -> Outcome:
        """Evaluate the models of a method and return the mean of their scores.

        Args:
          method: name of the row.
          adapters: one for every draw.
          seconds: that making one of them took.
          repaired: how the first was made.
        """
        settings = self.config.exam
        found = [
            evaluate(
                self.base,
                adapter,
                self.world,
                self.exam,
                max_new_tokens=settings.max_new_tokens,
                batch_size=settings.batch_size,
                task_tokens=settings.task_tokens,
            )
            for adapter in adapters
        ]
        scores = [score for score, _ in found]
        means = {
            name: float(np.mean([getattr(score, name) for score in scores]))
            for name in ("hs", "fa", "over_refusal", "benign_answered", "odd")
        }
        row = {"method": method, **self.case._asdict(), **means, "seconds": round(seconds, 2)}
        return Outcome({name: row[name] for name in ROW}, scores, found[0][1], repaired, {})

    def realigned(
        self,
        method: str,
        finetuned: Adapter,
        alignment: Aligned,
        settings: RepairSettings | AutomaticSettings,
    ) -> Outcome:
        """Realign with some settings, from the calibration rows to the adapter, and evaluate."""
        started = time.perf_counter()
        told: dict[str, Any] = {}
        if isinstance(settings, AutomaticSettings):
            told = {"aim": settings.aim}
            settings = self.choose(finetuned, alignment, settings)
        key = stage_key(self.case.seed, "realign")
        reference = make_reference(alignment.aligned, alignment.weak, settings)
        rows = identification_rows(self.world, self.config, self.case.seed, settings.method)
        batches = calibration_batches(self.base, rows, 50, self.config.sft.training.max_length)
        finetuned = prepare_finetuned(key, finetuned, alignment.aligned, settings)
        evidence = gather_evidence(self.base, reference, batches, settings.method, finetuned)
        masks = make_masks(key, reference, evidence, settings, finetuned)
        results = jax.block_until_ready(repair(key, finetuned, reference, masks, settings))
        seconds = time.perf_counter() - started
        outcome = self.outcome(method, [result.adapter for result in results], seconds, results[0])
        return outcome._replace(settings=told | dataclasses.asdict(settings))

    def choose(self, finetuned: Adapter, alignment: Aligned, settings: AutomaticSettings) -> RepairSettings:
        """Choose a repair by the calibration rows."""
        batches = gain_batches(self.base, self.world, self.config, self.case.seed)
        adapters = (finetuned, alignment.aligned, alignment.weak)
        return chosen_settings(
            choose_settings(self.base.model, self.base.params, *adapters, batches, **dataclasses.asdict(settings))
        )


def calibration_rows(world: World, config: StudyConfig, seed: int) -> list[Example]:
    """Return the rows that a seed's identification goes by."""
    return world.calibration(stream(stage_key(seed, "realign"), "calibration rows"), config.calibration_rows)


def identification_rows(
    world: World, config: StudyConfig, seed: int, method: str
) -> Sequence[Example] | Sequence[Preference]:
    """Return what a method of identification goes by: safe answers, or pairs for ``preference_snip``."""
    if method != "preference_snip":
        return calibration_rows(world, config, seed)
    return world.harmful_pairs(stream(stage_key(seed, "realign"), "calibration pairs"), config.calibration_rows)


def gain_batches(base: Base, world: World, config: StudyConfig, seed: int) -> list[tuple]:
    """Return the batches that a seed's automatic choice goes by."""
    rows = identification_rows(world, config, seed, "gain")
    return calibration_batches(base, rows, 50, config.sft.training.max_length)


def story(
    bench: Bench, alignment: Aligned, tuned: Tuned, *, note: Callable[[str], None] = lambda _: None
) -> Iterator[Outcome]:
    """Tell the whole story: before alignment, aligned, fine-tuned, and repaired in three ways.

    Args:
      bench: of the study.
      alignment: the aligned adapters.
      tuned: the fine-tuned adapter.
      note: called with what is being done.

    Yields:
      Outcomes named ``unaligned``, ``aligned``, ``finetuned``, ``random`` (the published settings with a random
      mask of equal size), ``nlsr`` (as published) and ``nlsr_recommended``.
    """
    made: dict[str, tuple[Adapter | None, float]] = {
        "unaligned": (None, 0.0),
        "aligned": (alignment.aligned, alignment.seconds),
        "finetuned": (tuned.adapter, tuned.seconds),
    }
    for method, (adapter, seconds) in made.items():
        note(f"asking: {method}")
        yield bench.outcome(method, [adapter], seconds)
    for method, settings in repairs(bench.config).items():
        note(f"realigning and asking: {method}")
        yield bench.realigned(method, tuned.adapter, alignment, settings)


SWEPT: dict[str, tuple[float, ...]] = {
    "beta": (0.0, 0.45, 0.9, 1.35, 1.8),
    "sparsity": (0.5, 0.6, 0.7, 0.8, 0.9, 0.95),
}
"""Settings of the published method that ``sweep`` varies, one at a time."""


def sweep(bench: Bench, alignment: Aligned, tuned: Tuned, settings: RepairSettings) -> Iterator[dict]:
    """Vary one setting of a repair at a time.

    Args:
      bench: of the study.
      alignment, tuned: its adapters.
      settings: the repair.

    Yields:
      Rows of a results table with ``setting`` and ``value`` before the others.
    """
    for name, values in SWEPT.items():
        for value in values:
            change: dict[str, Any] = {name: value}
            changed = dataclasses.replace(settings, **change)
            row = bench.realigned("nlsr", tuned.adapter, alignment, changed).row
            yield {"setting": name, "value": value, **row}


def repairs(config: StudyConfig) -> dict[str, RepairSettings | AutomaticSettings]:
    """Return the repairs of the story by method."""
    return {"random": config.random, "nlsr": config.published, "nlsr_recommended": config.recommended}
