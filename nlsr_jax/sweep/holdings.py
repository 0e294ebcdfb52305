"""The table of holdings: every situation repaired with fixed settings of gain, row by row."""

import dataclasses
import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from nlsr_jax.adapter import Adapter
from nlsr_jax.calibration.doubts import doubts
from nlsr_jax.calibration.refinement import cannot_tell, fineness
from nlsr_jax.data.toy_tasks import TASKS
from nlsr_jax.defenses.lssf import lssf
from nlsr_jax.defenses.resta import resta
from nlsr_jax.defenses.safelora import safelora
from nlsr_jax.defenses.safemerge import safemerge
from nlsr_jax.errors import InputError
from nlsr_jax.files.paths import expand
from nlsr_jax.formats.peft import load_adapter
from nlsr_jax.study.case import Aligned, Case
from nlsr_jax.study.config import StudyConfig, describe_config
from nlsr_jax.study.pretraining import load_base
from nlsr_jax.study.reproduction import Plan, check_plan
from nlsr_jax.study.situations import SITUATIONS
from nlsr_jax.study.stages import Base
from nlsr_jax.study.storytelling import TABLE, write_table
from nlsr_jax.study.toy import ToyWorld
from nlsr_jax.study.workshop import Holding, Made, Peer, Workshop
from nlsr_jax.study.worlds import World
from nlsr_jax.sweep.examining import Exams
from nlsr_jax.sweep.holdings_means import METHOD, REFINED, REFINED_KEPT
from nlsr_jax.sweep.store import CellStore
from nlsr_jax.training.identity import digest

SHARES = (0.003, 0.01, 0.02, 0.03, 0.05)
BETAS = (0.0, 1.0, 2.0)
ADAPTERS, ANSWERS = "adapters", "answers"
FIXED = "fixed"
"""Method of a row with the recommended setting and its own share of entries."""
BEFORE = ("aligned", "finetuned")
_SEARCHED = (REFINED, REFINED_KEPT)
PUBLISHED = "published"
PEERS: Mapping[str, Peer] = {
    "safelora": lambda finetuned, aligned, _, tau: safelora(finetuned, aligned, tau=tau).adapter,
    "resta": lambda finetuned, aligned, _, gamma: resta(finetuned, aligned, gamma=gamma),
    "safemerge": lambda finetuned, aligned, _, weight: (
        safemerge(finetuned, aligned, tau=1.0, weight=weight).adapter
    ),
    "lssf": lambda finetuned, aligned, read, alpha: lssf(finetuned, aligned, read(), alpha=alpha).adapter,
}
"""Other repairs of an adapter by name. Their settings are SafeLoRA's τ, RESTA's γ, the weight of the fine-tuned
adapter in all modules of SafeMERGE, and LSSF's α."""
_COLUMNS = ("method", "task", "poison_ratio", "seed", "hs", "fa", "over_refusal", "seconds")
_MORE = ("situation", "benign_answered", "odd", "beta", "share", "learning_rate", "notes")
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
      fixed: whether the recommended setting is shown with its own share.
      refined: whether it is shown with a refined share, where it can be.
      keeps: whether it is shown with a refined share and prompts of the task, too.
      strength: of repairs with a refined share; None for what is recommended in each situation.
      published: also repair with the paper's settings, where they have a meaning.
      peers: settings of each of ``PEERS`` to repair with, where there is a direction of safety.
    """

    situations: tuple[str, ...] = tuple(SITUATIONS)
    tasks: tuple[str, ...] = TASKS
    poison_ratios: tuple[float, ...] = (0.05, 0.2)
    seeds: tuple[int, ...] = (101, 102, 103)
    rates: tuple[float, ...] = (6e-4, 4e-4)
    betas: tuple[float, ...] = BETAS
    shares: tuple[float, ...] = SHARES
    fixed: bool = False
    refined: bool = True
    keeps: bool = False
    published: bool = False
    peers: Mapping[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    strength: float | None = None

    def cases(self) -> Iterator[Case]:
        """Yield the cases in the order of the table."""
        for seed, task, ratio in itertools.product(self.seeds, self.tasks, self.poison_ratios):
            yield Case(task, ratio, seed)


PLANS = {
    "toy": HoldingsPlan(keeps=True),
    "policy": HoldingsPlan(
        situations=("instruct", "lineage"),
        tasks=("sst2", "ag_news"),
        poison_ratios=(0.1,),
        seeds=(0, 1, 2),
        rates=(6e-4,),
        betas=(),
        shares=(),
        published=True,
        peers={"safelora": (0.35, 0.65, 1.0), "resta": (0.5, 1.0, 2.0)},
    ),
}
"""The plan of each world."""
QUICK = dataclasses.replace(
    PLANS["policy"],
    situations=("instruct",),
    tasks=("sst2",),
    poison_ratios=(0.1,),
    rates=(6e-4,),
    seeds=(0,),
    published=False,
    peers={},
)
"""One case of the policy world, in part."""


class Entry(NamedTuple):
    """One row that is to be made.

    ``beta`` and ``share`` are None where the table does not set them. ``setting`` is the one of a peer, see
    ``PEERS``, and ``strength`` that of a repair whose share is refined.
    """

    situation: str
    case: Case
    method: str
    beta: float | None = None
    share: float | None = None
    setting: float | None = None
    strength: float = 1.0


def check_holdings(plan: HoldingsPlan, tasks: Sequence[str] = TASKS) -> None:
    """Raise InputError, naming the flag, if a plan is invalid.

    Args:
      plan: the plan.
      tasks: names of the tasks that there are.
    """
    check_plan(Plan(plan.seeds, plan.tasks, plan.poison_ratios), tasks)
    for name in plan.situations:
        if name not in SITUATIONS:
            raise InputError(f"--situations has {name!r}; expected some of {', '.join(SITUATIONS)}")
    if len(plan.rates) != len(plan.poison_ratios):
        raise InputError(
            f"--learning_rates has {len(plan.rates)} numbers; expected one for each of the "
            f"{len(plan.poison_ratios)} --poison_ratios"
        )
    for name in plan.peers:
        if name not in PEERS:
            raise InputError(f"--peers has {name!r}; expected some of {', '.join(PEERS)}")
    if plan.strength is not None and not plan.strength > 0:
        raise InputError(f"--strength is {plan.strength:g}; expected a number above 0")
    for share in plan.shares:
        if not 0 < share < 1:
            raise InputError(f"--shares has {share}; expected shares between 0 and 1, both excluded")


class Models(NamedTuple):
    """The models of a study.

    Attributes:
      base: the pretrained model.
      world: the source of the rows.
      alignment: the adapter that makes the instruct model.
      lineage: see ``Workshop``.
      keep: whether to keep fine-tuned adapters.
      places: folders that were read, by flag.
      told: what else determines a row.
    """

    base: Base
    world: World
    alignment: Adapter
    lineage: Aligned | None = None
    keep: bool = False
    places: Mapping[str, str] = {}
    told: Mapping[str, Any] = {}


def toy_models(folder: str | os.PathLike) -> Models:
    """Return the models of the toy world in a folder: ``base``, and ``dpo``, the adapter of the instruct model."""
    place, world = expand(folder), ToyWorld()
    base, alignment = load_base(place / "base", world), load_adapter(place / "dpo")
    return Models(base, world, alignment, places={"--models": str(place)})


def kept_models(base: Base, world: World, folder: str | os.PathLike) -> Models:
    """Return the models of a study whose alignment is made once.

    Args:
      base, world: base and world of the study.
      folder: holds ``dpo``, the aligned adapter, and perhaps ``sft``, the weak one. Without it a lineage is aligned
        anew for every seed.
    """
    place = expand(folder)
    aligned, lineage = load_adapter(place / "dpo", base.model.config), None
    if (place / "sft").is_dir():
        lineage = Aligned(load_adapter(place / "sft", base.model.config), aligned, 0.0)
    return Models(base, world, aligned, lineage, True, {"--models": str(place)})


def make_holdings(
    config: StudyConfig,
    plan: HoldingsPlan,
    models: Models,
    output: str | os.PathLike,
    *,
    show: bool = False,
    note: Callable[[str], None] = lambda _: None,
) -> list[dict[str, Any]]:
    """Make the rows of a plan that the output does not have yet, and write its table.

    Args:
      config: the study.
      plan: the rows.
      models: its models.
      output: the folder of the rows; an existing one is continued. ``table.json`` is written after each case.
        Fine-tuned adapters that are kept are in ``adapters``, and answers in ``answers``.
      show: show progress.
      note: called with progress messages.

    Returns:
      The rows, in the order of the plan.

    Raises:
      InputError: if the plan or a folder is invalid.
    """
    check_holdings(plan, models.world.tasks)
    store = CellStore(output, _describe(config, models), models.places)
    rates = dict(zip(plan.poison_ratios, plan.rates, strict=True))
    folder = store.path / ADAPTERS if models.keep else None
    options: dict[str, Any] = {"lineage": models.lineage, "folder": folder, "show": show}
    workshop = Workshop(models.base, models.world, config, models.alignment, rates, **options)
    exams = Exams(workshop, store.path / ANSWERS if models.keep else None)
    found: list[dict[str, Any]] = []
    for case, situation in itertools.product(plan.cases(), plan.situations):
        holding, done = None, store.rows()
        for entry in entries(plan, situation, case):
            name = _name(entry, rates)
            if name not in done:
                note(f"{situation}, {case.task}, {case.poison_ratio:.0%}, seed {case.seed}: {_shown(entry)}")
                holding = holding or SITUATIONS[situation].open(workshop, case)
                done[name] = {"cell": name, **_row(exams, holding, entry, name)}
                store.add(done[name])
            found.append({column: value for column, value in done[name].items() if column != "cell"})
        write_table(found, store.path / TABLE)
    return found


def entries(plan: HoldingsPlan, situation: str, case: Case) -> Iterator[Entry]:
    """Yield the rows of one situation of a case."""
    for method in BEFORE:
        yield Entry(situation, case, method)
    if plan.published and SITUATIONS[situation].published:
        yield Entry(situation, case, PUBLISHED)
    if SITUATIONS[situation].published:
        for name, settings in plan.peers.items():
            yield from (Entry(situation, case, name, setting=value) for value in settings)
    known = SITUATIONS[situation].betas
    if plan.fixed:
        yield Entry(situation, case, FIXED)
    for method, shown in ((REFINED, plan.refined), (REFINED_KEPT, plan.keeps)):
        if shown and SITUATIONS[situation].refines:
            strength = SITUATIONS[situation].strength if plan.strength is None else plan.strength
            yield Entry(situation, case, method, strength=strength)
    betas = [beta for beta in plan.betas if known is None or beta in known]
    for beta, share in itertools.product(betas, plan.shares):
        yield Entry(situation, case, METHOD, beta, share)


def _row(exams: Exams, holding: Holding, entry: Entry, name: str) -> dict[str, Any]:
    made, told = _made(holding, entry)
    row = exams.row(made, entry.case, name) | {
        "method": entry.method,
        "situation": entry.situation,
        "learning_rate": _rate(entry, exams.workshop.rates),
        **told,
    }
    own = {} if entry.setting is None else {"setting": entry.setting}
    own |= {"strength": told["strength"]} if "strength" in told else {}
    return {column: row[column] for column in (*_COLUMNS, *_MORE)} | own


def _made(holding: Holding, entry: Entry) -> tuple[Made, dict[str, Any]]:
    """Return the model of a row, its β, its share of entries and what is doubtful of it."""
    told: dict[str, Any] = {"beta": None, "share": None, "notes": []}
    if entry.method in BEFORE:
        return holding.models[entry.method], told
    if entry.method == PUBLISHED:
        return holding.published(), told
    if entry.setting is not None:
        return holding.by_peer(PEERS[entry.method], entry.setting), told
    beta, share, situation = entry.beta, entry.share, SITUATIONS[entry.situation]
    if beta is None or share is None:
        beta, share = situation.recommended.beta, round(1 - situation.recommended.sparsity, 6)
    told |= {"beta": beta, "share": share}
    if entry.method not in _SEARCHED:
        repair = holding.recommended if entry.method == FIXED else holding.repaired
        return repair(beta, share), told
    made, found = holding.refined(beta, share, entry.strength, keeps=entry.method == REFINED_KEPT)
    told |= {"share": share if found.share is None else found.share, "notes": doubts(found)}
    plain = entry.strength == 1 or cannot_tell(found.finetuned, found.aligned)
    return made, told | ({} if plain else {"strength": entry.strength})


def _describe(config: StudyConfig, models: Models) -> dict[str, Any]:
    """Return what determines a row beside its name."""
    found = {"base": digest(models.base.params), "alignment": digest(models.alignment.factors)}
    if models.lineage is not None:
        found["weak"] = digest(models.lineage.weak.factors)
    return {"version": VERSION, "study": "holdings", **found, "config": describe_config(config), **models.told}


def _rate(entry: Entry, rates: Mapping[float, float]) -> float | None:
    return SITUATIONS[entry.situation].learning_rate(rates, entry.case.poison_ratio)


def _name(entry: Entry, rates: Mapping[float, float]) -> str:
    values = [entry.situation, *entry.case, entry.method, entry.beta, entry.share]
    if entry.setting is not None:
        values.append(f"setting {entry.setting}")
    if entry.method in (FIXED, *_SEARCHED):
        values.append("answers that were taken")
    if entry.strength != 1:
        values += [f"strength {entry.strength}", fineness(entry.strength)]
    rate = _rate(entry, rates)
    if rate is not None:
        values.append(rate)
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()


def _shown(entry: Entry) -> str:
    if entry.setting is not None:
        return f"{entry.method} {entry.setting:g}"
    return entry.method if entry.beta is None else f"beta {entry.beta:g}, {entry.share:.1%} of the entries"
