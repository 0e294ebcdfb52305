"""Cells of a sweep: their settings, their names, and the columns that describe them."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from nlsr_jax.data.toy_tasks import TASKS
from nlsr_jax.errors import InputError
from nlsr_jax.files.values import convert
from nlsr_jax.nlsr.identify import check_sparsity
from nlsr_jax.nlsr.pruning import check_rule
from nlsr_jax.nlsr.setting_checks import choices_of
from nlsr_jax.study.case import Case
from nlsr_jax.study.defending import DEFENSES, setting_types
from nlsr_jax.study.repairs import RECOMMENDED, AutomaticSettings, RepairSettings
from nlsr_jax.study.reproduction import Plan, check_plan
from nlsr_jax.training.settings import OBJECTIVES

ROWS, STUDY, LOCK = "rows.jsonl", "study.json", ".lock"
BASELINES = ("unaligned", "aligned", "finetuned")
AUTOMATIC = "nlsr_automatic"
REFINED = "nlsr_refined"
METHODS = (*BASELINES, "nlsr", AUTOMATIC, REFINED, *DEFENSES)
"""The methods that make a cell's model."""
OWN = "own"
ARCHITECTURES = ("llama", "qwen2", "mistral")
REQUESTS = ("plain", "contextual")
"""Sets of requests: the study's evaluation set, and the alternative set."""
_CHOICES = {"objective": OBJECTIVES, "architecture": (OWN, *ARCHITECTURES), "requests": REQUESTS}
_SETTINGS = choices_of(RepairSettings)
SCORES = ("hs", "fa", "over_refusal", "benign_answered", "odd")
"""Percentages in a row."""


@dataclasses.dataclass(frozen=True)
class Cell:
    """One model to make and evaluate.

    Attributes:
      method: one of ``METHODS``.
      task, poison_ratio, seed: the case.
      objective: objective of the alignment.
      architecture: architecture of the base, one of ``ARCHITECTURES``, or ``OWN``: the study's.
      requests: the set of requests, one of ``REQUESTS``.
      identified_on: for ``nlsr``: the task on whose fine-tuned adapter entries and modules are chosen; None for
        the cell's own.
      settings: ``((name, value), …)`` of the method, sorted; for ``nlsr`` changes to the published settings, for
        ``nlsr_automatic`` all settings; ``nlsr_refined``, the default of ``nlsr realign``, has none.
    """

    method: str
    task: str = "sst2"
    poison_ratio: float = 0.05
    seed: int = 0
    objective: str = "dpo"
    architecture: str = OWN
    requests: str = "plain"
    identified_on: str | None = None
    settings: tuple[tuple[str, Any], ...] = ()

    @property
    def case(self) -> Case:
        """Return the case."""
        return Case(self.task, self.poison_ratio, self.seed)


def settings_of(method: str) -> dict[str, Any]:
    """Return the settings of a method, with their types."""
    if method == "nlsr":
        return {field.name: field.type for field in dataclasses.fields(RepairSettings)}
    if method == AUTOMATIC:
        return {field.name: field.type for field in dataclasses.fields(AutomaticSettings)}
    return setting_types(method) if method in DEFENSES else {}


def make_cell(
    method: str, settings: Mapping[str, Any] | None = None, *, tasks: Sequence[str] = TASKS, **case: Any
) -> Cell:
    """Return a cell with its settings checked and sorted.

    Args:
      method: one of ``METHODS``.
      settings: settings of the method.
      tasks: names of the tasks that there are.
      **case: the other fields of ``Cell``.

    Raises:
      InputError: if the method is unknown, does not have a setting, a setting has the wrong type, or the case is
        invalid.
    """
    if method not in METHODS:
        raise InputError(f"method is {method!r}; expected one of {', '.join(METHODS)}")
    if not isinstance(settings or {}, Mapping):
        raise InputError(f"settings are {settings!r}; expected names with values")
    settings, known = dict(settings or {}), settings_of(method)
    if method == AUTOMATIC:
        settings = dataclasses.asdict(RECOMMENDED) | settings
        if settings["share"] is None:
            del settings["share"]
    unknown = sorted(set(settings) - set(known))
    if unknown and not known:
        raise InputError(f"{method} has no settings, found {', '.join(unknown)}")
    if unknown:
        raise InputError(f"{method} has no setting {unknown[0]!r}; expected some of {', '.join(sorted(known))}")
    values = {name: convert(name, value, known[name]) for name, value in sorted(settings.items())}
    if method == "nlsr":
        _check_choices(values)
    fields = {field.name: field.type for field in dataclasses.fields(Cell)}
    case = {name: convert(name, value, fields[name]) for name, value in case.items()}
    cell = Cell(method, settings=tuple(values.items()), **case)
    check_plan(Plan((cell.seed,), (cell.task,), (cell.poison_ratio,)), tasks)
    for name, choices in _CHOICES.items():
        if getattr(cell, name) not in choices:
            raise InputError(f"{name} is {getattr(cell, name)!r}; expected one of {', '.join(choices)}")
    if cell.identified_on is not None and method != "nlsr":
        raise InputError(f"identified_on is only for nlsr; {method} does not identify neurons")
    if cell.identified_on not in (None, *tasks):
        raise InputError(f"identified_on is {cell.identified_on!r}; expected one of {', '.join(tasks)}")
    return cell


def _check_choices(settings: Mapping[str, Any]) -> None:
    """Check settings that would otherwise fail only after training."""
    for name, choices in _SETTINGS.items():
        if name in settings and settings[name] not in choices:
            raise InputError(f"setting {name} is {settings[name]!r}; expected one of {', '.join(choices)}")
    if settings.get("layers") == ():
        raise InputError("setting layers is []; expected a list of whole numbers")
    if settings.get("draws", 1) < 1:
        raise InputError(f"setting draws is {settings['draws']}; expected at least 1")
    given = dataclasses.replace(RepairSettings(), **settings)
    check_rule(given.rule, given.tau, given.share, given.layers)
    check_sparsity(given.sparsity)


def cells_from_json(values: Any, where: str | os.PathLike, tasks: Sequence[str] = TASKS) -> list[Cell]:
    """Read a list of cells: objects with ``method`` and optional other fields of ``Cell``.

    Args:
      values: the list.
      where: its place, for messages.
      tasks: names of the tasks that there are.

    Raises:
      InputError: if a cell is invalid; the message names the first.
    """
    if not isinstance(values, list) or not values:
        raise InputError(f"{where}: expected a JSON list of cells")
    names = {field.name for field in dataclasses.fields(Cell)}
    cells = []
    for i, value in enumerate(values, 1):
        if not isinstance(value, dict) or "method" not in value or set(value) - names:
            raise InputError(
                f"{where}: cell {i} is {value!r}; expected 'method' and any of {', '.join(sorted(names))}"
            )
        cells.append(make_cell(**value, tasks=tasks))
    return cells


def cell_digest(cell: Cell, study: str) -> str:
    """Return the name of a cell: a SHA-256 of its settings and its study.

    Args:
      cell: the cell.
      study: digest of everything else that its row depends on.
    """
    text = json.dumps([study, dataclasses.asdict(cell)], sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def cell_fields(cell: Cell) -> dict[str, Any]:
    """Return the columns of a cell's row that identify it."""
    fields = dataclasses.asdict(cell)
    return {**fields, "settings": dict(cell.settings)}
