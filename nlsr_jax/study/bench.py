"""Evaluate and repair the models of one study: one row of the results table per method."""

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from nlsr_jax.adapter import Adapter
from nlsr_jax.calibration.automatic import choose_settings
from nlsr_jax.calibration.search import SearchSettings
from nlsr_jax.nlsr.realign import Realigned
from nlsr_jax.report.story import NAMES
from nlsr_jax.study.case import Aligned, Case, Tuned, gain_batches, identification_rows, stage_key
from nlsr_jax.study.config import StudyConfig
from nlsr_jax.study.exam import Exam, Scores, evaluate
from nlsr_jax.study.repairs import (
    AutomaticSettings,
    RepairSettings,
    calibration_batches,
    chosen_settings,
    describe,
    gather_evidence,
    make_masks,
    make_reference,
    prepare_finetuned,
    repair,
)
from nlsr_jax.study.stages import Base
from nlsr_jax.study.worlds import World

ROW = ("method", "task", "poison_ratio", "seed", "hs", "fa", "over_refusal", "benign_answered", "odd", "seconds")
"""Columns of a results table: percentages, and the seconds it took to make the model."""


class Outcome(NamedTuple):
    """The result of one method.

    Attributes:
      row: its row of the results table, with the keys of ``ROW``.
      scores: scores of the models that the row averages.
      responses: responses of the first model, in the order of ``evaluate``.
      repaired: the realignment that made the first model; None if nothing was realigned.
      settings: the realignment settings, including ``aim`` if they were chosen automatically; empty if nothing
        was realigned.
    """

    row: dict
    scores: list[Scores]
    responses: list[str]
    repaired: Realigned | None
    settings: dict[str, Any]


class Bench:
    """Evaluates models and realigns adapters of one study on equal terms.

    Args:
      base, world, config: base, world and configuration of the study.
      case: the task, poison ratio and seed.
      exam: the requests and task rows to evaluate with.
    """

    def __init__(self, base: Base, world: World, config: StudyConfig, case: Case, exam: Exam):
        self.base, self.world, self.config, self.case, self.exam = base, world, config, case, exam

    def outcome(
        self, method: str, adapters: list[Adapter | None], seconds: float, repaired: Realigned | None = None
    ) -> Outcome:
        """Evaluate the models of a method and average their scores.

        Args:
          method: name of the row.
          adapters: one per draw.
          seconds: time it took to make one of them.
          repaired: the realignment that made the first.
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
        """Realign with the given settings, starting from the calibration rows, and evaluate."""
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
        return outcome._replace(settings=told | describe(settings))

    def choose(self, finetuned: Adapter, alignment: Aligned, settings: AutomaticSettings) -> RepairSettings:
        """Choose repair settings from the calibration rows."""
        batches = gain_batches(self.base, self.world, self.config, self.case.seed)
        adapters = (finetuned, alignment.aligned, alignment.weak)
        search = SearchSettings(**dataclasses.asdict(settings))
        found = choose_settings(self.base.model, self.base.params, *adapters, batches, settings=search)
        return chosen_settings(found)


def story(
    bench: Bench, alignment: Aligned, tuned: Tuned, *, note: Callable[[str], None] = lambda _: None
) -> Iterator[Outcome]:
    """Evaluate the whole story: before alignment, aligned, fine-tuned, and repaired in three ways.

    Args:
      bench: bench of the study.
      alignment: the aligned adapters.
      tuned: the fine-tuned adapter.
      note: called with progress messages.

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
        note(f"evaluating: {NAMES[method]}")
        yield bench.outcome(method, [adapter], seconds)
    for method, settings in repairs(bench.config).items():
        note(f"repairing and evaluating: {NAMES[method]}")
        yield bench.realigned(method, tuned.adapter, alignment, settings)


SWEPT: dict[str, tuple[float, ...]] = {
    "beta": (0.0, 0.45, 0.9, 1.35, 1.8),
    "sparsity": (0.5, 0.6, 0.7, 0.8, 0.9, 0.95),
}
"""Settings of the published method that ``sweep`` varies one at a time."""


def sweep(bench: Bench, alignment: Aligned, tuned: Tuned, settings: RepairSettings) -> Iterator[dict]:
    """Vary one setting of a repair at a time.

    Args:
      bench: bench of the study.
      alignment, tuned: its adapters.
      settings: the repair settings.

    Yields:
      Rows of a results table, with ``setting`` and ``value`` as first columns.
    """
    for name, values in SWEPT.items():
        for value in values:
            change: dict[str, Any] = {name: value}
            changed = dataclasses.replace(settings, **change)
            row = bench.realigned("nlsr", tuned.adapter, alignment, changed).row
            yield {"setting": name, "value": value, **row}


def repairs(config: StudyConfig) -> dict[str, RepairSettings | AutomaticSettings]:
    """Return the repair settings of the story by method."""
    return {"random": config.random, "nlsr": config.published, "nlsr_recommended": config.recommended}
