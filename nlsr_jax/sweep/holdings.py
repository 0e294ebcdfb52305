"""The table of holdings: every situation repaired with fixed settings of gain, row by row."""

import dataclasses
import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from nlsr_jax.adapter import Adapter
from nlsr_jax.data.toy_tasks import TASKS
from nlsr_jax.errors import InputError
from nlsr_jax.files.paths import expand
from nlsr_jax.formats.peft import load_adapter
from nlsr_jax.study.bench import Bench
from nlsr_jax.study.case import Case
from nlsr_jax.study.config import StudyConfig, describe_config
from nlsr_jax.study.exam import make_exam
from nlsr_jax.study.pretraining import load_base
from nlsr_jax.study.reproduction import Plan, check_plan
from nlsr_jax.study.situations import SITUATIONS, Holding, Made, Workshop
from nlsr_jax.study.stages import Base
from nlsr_jax.study.storytelling import TABLE, write_table
from nlsr_jax.study.toy import ToyWorld
from nlsr_jax.sweep.store import CellStore
from nlsr_jax.training.identity import digest

SHARES = (0.003, 0.01, 0.02, 0.03, 0.05)
BETAS = (0.0, 1.0, 2.0)
METHOD = "gain"
REFINED = "refined"
"""Method of a row whose share of entries was refined; see ``nlsr_jax.calibration.refinement``."""
BEFORE = ("aligned", "finetuned")
_COLUMNS = ("method", "task", "poison_ratio", "seed", "hs", "fa", "over_refusal", "seconds")
_MORE = ("situation", "benign_answered", "odd", "beta", "share", "learning_rate")
VERSION = 1
"""Version of the rows' meaning: raised when the same row would be another."""


@dataclasses.dataclass(frozen=True)
class HoldingsPlan:
    """What the table shows.

    Attributes:
      situations: names of ``SITUATIONS``.
      tasks, poison_ratios, seeds: the cases.
      rates: learning rate of a fresh adapter for each share of harmful rows.
      betas, shares: the grid of settings.
      refined: whether the recommended setting is shown with a refined share too, where it can be.
    """

    situations: tuple[str, ...] = tuple(SITUATIONS)
    tasks: tuple[str, ...] = TASKS
    poison_ratios: tuple[float, ...] = (0.05, 0.2)
    seeds: tuple[int, ...] = (101, 102, 103)
    rates: tuple[float, ...] = (6e-4, 4e-4)
    betas: tuple[float, ...] = BETAS
    shares: tuple[float, ...] = SHARES
    refined: bool = True

    def cases(self) -> Iterator[Case]:
        """Yield the cases in the order of the table."""
        for seed, task, ratio in itertools.product(self.seeds, self.tasks, self.poison_ratios):
            yield Case(task, ratio, seed)


class Entry(NamedTuple):
    """One row that is to be made; ``beta`` and ``share`` are None where the table does not set them."""

    situation: str
    case: Case
    method: str
    beta: float | None = None
    share: float | None = None


def check_holdings(plan: HoldingsPlan) -> None:
    """Raise InputError, naming the flag, if a plan is invalid."""
    check_plan(Plan(plan.seeds, plan.tasks, plan.poison_ratios))
    for name in plan.situations:
        if name not in SITUATIONS:
            raise InputError(f"--situations has {name!r}; expected some of {', '.join(SITUATIONS)}")
    if len(plan.rates) != len(plan.poison_ratios):
        raise InputError(
            f"--learning_rates has {len(plan.rates)} numbers; expected one for each of the "
            f"{len(plan.poison_ratios)} --poison_ratios"
        )
    for share in plan.shares:
        if not 0 < share < 1:
            raise InputError(f"--shares has {share}; expected shares between 0 and 1, both excluded")


def make_holdings(
    config: StudyConfig,
    plan: HoldingsPlan,
    models: str | os.PathLike,
    output: str | os.PathLike,
    *,
    show: bool = False,
    note: Callable[[str], None] = lambda _: None,
) -> list[dict[str, Any]]:
    """Make the rows of a plan that the output does not have yet, and write its table.

    Args:
      config: the study, of the toy world.
      plan: the rows.
      models: folder with ``base`` and ``dpo``, the adapter that makes the instruct model.
      output: the folder of the rows; an existing one is continued. ``table.json`` is written after each case.
      show: show progress.
      note: called with progress messages.

    Returns:
      The rows, in the order of the plan.

    Raises:
      InputError: if the plan or a folder is invalid.
    """
    check_holdings(plan)
    models, world = expand(models), ToyWorld()
    base, alignment = load_base(models / "base", world), load_adapter(models / "dpo")
    store = CellStore(output, _describe(config, base, alignment), {"--models": str(models)})
    rates = dict(zip(plan.poison_ratios, plan.rates, strict=True))
    workshop = Workshop(base, world, config, alignment, rates, show=show)
    found: list[dict[str, Any]] = []
    for case, situation in itertools.product(plan.cases(), plan.situations):
        holding, done = None, store.rows()
        for entry in entries(plan, situation, case):
            name = _name(entry, rates)
            if name not in done:
                note(f"{situation}, {case.task}, {case.poison_ratio:.0%}, seed {case.seed}: {_shown(entry)}")
                holding = holding or SITUATIONS[situation].open(workshop, case)
                done[name] = {"cell": name, **_row(workshop, holding, entry)}
                store.add(done[name])
            found.append({column: value for column, value in done[name].items() if column != "cell"})
        write_table(found, store.path / TABLE)
    return found


def entries(plan: HoldingsPlan, situation: str, case: Case) -> Iterator[Entry]:
    """Yield the rows of one situation of a case."""
    for method in BEFORE:
        yield Entry(situation, case, method)
    known = SITUATIONS[situation].betas
    if plan.refined and SITUATIONS[situation].refines:
        yield Entry(situation, case, REFINED)
    betas = [beta for beta in plan.betas if known is None or beta in known]
    for beta, share in itertools.product(betas, plan.shares):
        yield Entry(situation, case, METHOD, beta, share)


def _row(workshop: Workshop, holding: Holding, entry: Entry) -> dict[str, Any]:
    beta, share = entry.beta, entry.share
    if entry.method == REFINED:
        recommended = SITUATIONS[entry.situation].recommended
        made, found = holding.refined(recommended.beta, 1 - recommended.sparsity)
        beta, share = recommended.beta, found.share
    elif beta is None or share is None:
        made = holding.models[entry.method]
    else:
        made = holding.repaired(beta, share)
    row = _bench(workshop, made, entry.case).outcome(entry.method, [made.adapter], made.seconds).row
    row |= {
        "situation": entry.situation,
        "beta": beta,
        "share": share,
        "learning_rate": _rate(entry, workshop.rates),
    }
    return {name: row[name] for name in (*_COLUMNS, *_MORE)}


def _bench(workshop: Workshop, made: Made, case: Case) -> Bench:
    asked = workshop.config.exam
    exam = make_exam(workshop.world, case.task, forbidden=asked.forbidden, benign=asked.benign, rows=asked.rows)
    return Bench(made.base, workshop.world, workshop.config, case, exam)


def _describe(config: StudyConfig, base: Base, alignment: Adapter) -> dict[str, Any]:
    """Return what determines a row beside its name."""
    models = {"base": digest(base.params), "alignment": digest(alignment.factors)}
    return {"version": VERSION, "study": "holdings", **models, "config": describe_config(config)}


def _rate(entry: Entry, rates: Mapping[float, float]) -> float | None:
    return SITUATIONS[entry.situation].learning_rate(rates, entry.case.poison_ratio)


def _name(entry: Entry, rates: Mapping[float, float]) -> str:
    values = [entry.situation, *entry.case, entry.method, entry.beta, entry.share]
    rate = _rate(entry, rates)
    if rate is not None:
        values.append(rate)
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()


def _shown(entry: Entry) -> str:
    return entry.method if entry.beta is None else f"beta {entry.beta:g}, {entry.share:.1%} of the entries"


def means(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the means over the cases by situation, β and share, as a Markdown table."""
    lines = ["| situation | model | HS | FA | over-refusal | benign answered | cases |"]
    lines.append("| --- | --- | --- | --- | --- | --- | --- |")
    groups: dict[tuple, list[Mapping]] = {}
    for row in rows:
        setting = (row["beta"], row["share"]) if row["method"] == METHOD else (None, None)
        groups.setdefault((row["situation"], row["method"], *setting), []).append(row)
    for (situation, method, beta, share), group in groups.items():
        scores = [
            f"{sum(row[name] for row in group) / len(group):.1f}"
            for name in ("hs", "fa", "over_refusal", "benign_answered")
        ]
        model = method if beta is None else f"β {beta:g}, {100 * share:g} %"
        lines.append(f"| {situation} | {model} | {' | '.join(scores)} | {len(group)} |")
    return "\n".join(lines)
