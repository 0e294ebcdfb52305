"""Cells of a sweep: what one is, the name that its settings give it, and the file that keeps its row."""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from nlsr_jax.data.toy_tasks import TASKS
from nlsr_jax.errors import InputError
from nlsr_jax.formats.apart import Inputs, check_apart
from nlsr_jax.formats.output import describe_os_error
from nlsr_jax.formats.paths import expand, is_folder, is_regular
from nlsr_jax.formats.values import convert
from nlsr_jax.laboratory.claims import Claims
from nlsr_jax.laboratory.defending import DEFENSES, setting_types
from nlsr_jax.laboratory.repairs import RECOMMENDED, AutomaticSettings, RepairSettings
from nlsr_jax.laboratory.reproduction import Plan, check_plan
from nlsr_jax.laboratory.study import Case
from nlsr_jax.nlsr.amplify import SPACES
from nlsr_jax.nlsr.basis import BASES
from nlsr_jax.nlsr.identify import METHODS as IDENTIFICATIONS
from nlsr_jax.nlsr.identify import check_sparsity
from nlsr_jax.nlsr.masks import GRANULARITIES
from nlsr_jax.nlsr.pruning import check_rule
from nlsr_jax.training.folder import write_whole
from nlsr_jax.training.settings import OBJECTIVES

ROWS, STUDY, LOCK = "rows.jsonl", "study.json", ".lock"
_STUDY_PARTIAL = f".{STUDY}.partial"
BASELINES = ("unaligned", "aligned", "finetuned")
AUTOMATIC = "nlsr_automatic"
METHODS = (*BASELINES, "nlsr", AUTOMATIC, *DEFENSES)
"""What a cell's model can be made by."""
OWN = "own"
ARCHITECTURES = ("llama", "qwen2", "mistral")
REQUESTS = ("plain", "contextual")
"""Sets of requests: the evaluation's, and the other, differently made one."""
_CHOICES = {"objective": OBJECTIVES, "architecture": (OWN, *ARCHITECTURES), "requests": REQUESTS}
_SETTINGS = {
    "method": IDENTIFICATIONS,
    "granularity": GRANULARITIES,
    "amplification_space": SPACES,
    "space": SPACES,
    "basis": BASES,
}
SCORES = ("hs", "fa", "over_refusal", "benign_answered", "odd")
"""Percentages of a row."""


@dataclasses.dataclass(frozen=True)
class Cell:
    """One model that is made and examined.

    Attributes:
      method: one of ``METHODS``.
      task, poison_ratio, seed: the case.
      objective: of the alignment.
      architecture: of the base, one of ``ARCHITECTURES``, or ``OWN``: the study's.
      requests: which set of requests is asked, one of ``REQUESTS``.
      identified_on: for ``nlsr``: the task on whose fine-tuned adapter entries and modules are chosen; None for
        the cell's own.
      settings: ``((name, value), …)`` of the method, sorted; for ``nlsr`` changes of the published settings, for
        ``nlsr_automatic`` all of them.
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
        """What is studied."""
        return Case(self.task, self.poison_ratio, self.seed)


def settings_of(method: str) -> dict[str, Any]:
    """Return the settings that a method has, with their types."""
    if method == "nlsr":
        return {field.name: field.type for field in dataclasses.fields(RepairSettings)}
    if method == AUTOMATIC:
        return {field.name: field.type for field in dataclasses.fields(AutomaticSettings)}
    return setting_types(method) if method in DEFENSES else {}


def make_cell(method: str, settings: Mapping[str, Any] | None = None, **case) -> Cell:
    """Return a cell, its settings checked and in order.

    Args:
      method: one of ``METHODS``.
      settings: of the method.
      **case: the other fields of ``Cell``.

    Raises:
      InputError: an unknown method, a setting that it does not have or one of another type, or a case that is none.
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
    check_plan(Plan((cell.seed,), (cell.task,), (cell.poison_ratio,)))
    for name, choices in _CHOICES.items():
        if getattr(cell, name) not in choices:
            raise InputError(f"{name} is {getattr(cell, name)!r}; expected one of {', '.join(choices)}")
    if cell.identified_on is not None and method != "nlsr":
        raise InputError(f"identified_on is of nlsr; {method} identifies nothing")
    if cell.identified_on not in (None, *TASKS):
        raise InputError(f"identified_on is {cell.identified_on!r}; expected one of {', '.join(TASKS)}")
    return cell


def _check_choices(settings: Mapping[str, Any]) -> None:
    """Check what could be found wrong after the training alone otherwise."""
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


def cells_from_json(values: Any, where: str | os.PathLike) -> list[Cell]:
    """Read a list of cells: objects with ``method`` and any other field of ``Cell``.

    Raises:
      InputError: naming the first that is none.
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
        cells.append(make_cell(**value))
    return cells


def cell_digest(cell: Cell, study: str) -> str:
    """Return the name of a cell: a SHA-256 of its settings and of the study that it belongs to.

    Args:
      cell: the cell.
      study: digest of everything else that decides its row.
    """
    text = json.dumps([study, dataclasses.asdict(cell)], sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def cell_fields(cell: Cell) -> dict[str, Any]:
    """Return the columns of a cell's row that say which it is."""
    fields = dataclasses.asdict(cell)
    return {**fields, "settings": dict(cell.settings)}


def check_store(path: pathlib.Path, inputs: Inputs | None = None) -> None:
    """Refuse a folder that is no place for rows; see ``CellStore``."""
    check_apart(path, inputs)
    if not is_folder(path) or is_regular(path / STUDY):
        return
    others = sorted(entry.name for entry in path.iterdir() if entry.name not in (LOCK, _STUDY_PARTIAL))
    if others:
        raise InputError(
            f"{path}: holds {others[0]} and no {STUDY}, so it is no folder of rows; name another output"
        )


class CellStore:
    """Rows of a sweep on disk, each appended when its cell is done; several processes may write at once.

    Args:
      path: the folder; made where there is none.
      study: what the rows belong to: values that JSON can hold.
      inputs: what is read, by the name for messages; the folder may not be, hold or lie in any of it.

    Attributes:
      claims: which process makes what.

    Raises:
      InputError: the folder holds rows of another study or files of something else, overlaps with an input, or
        cannot be written.
    """

    def __init__(self, path: str | os.PathLike, study: Mapping[str, Any], inputs: Inputs | None = None):
        self.path = expand(path)
        check_store(self.path, inputs)
        text = json.dumps(dict(study), indent=1, sort_keys=True) + "\n"
        try:
            self._open(text.encode())
        except OSError as error:
            raise InputError(describe_os_error(error, self.path)) from error

    def _open(self, study: bytes) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        with self._locked():
            file = self.path / STUDY
            if not file.exists():
                write_whole(file, study)
            elif file.read_bytes() != study:
                raise InputError(f"{self.path}: holds rows of another study; name another output or remove it")
        self.claims = Claims(self.path)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other processes out; the lock ends with the process, however that ends."""
        with (self.path / LOCK).open("a") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    def rows(self) -> dict[str, dict]:
        """Return the rows by their cells' names; what a killed process left of a line does not count."""
        file = self.path / ROWS
        if not file.exists():
            return {}
        found = {}
        for number, line in enumerate(file.read_bytes().splitlines(), 1):
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if not isinstance(row, dict) or not isinstance(row.get("cell"), str):
                raise InputError(f"{file}: line {number} is no row of a sweep; remove the line")
            found[row["cell"]] = row
        return found

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a row, whose ``cell`` is its name, and wait until it is on the disk.

        Raises:
          InputError: it cannot be written.
        """
        line = (json.dumps(dict(row), allow_nan=False) + "\n").encode()
        try:
            with self._locked(), (self.path / ROWS).open("ab+") as file:
                if file.tell() and not _ends_whole(file):
                    line = b"\n" + line  # behind what a killed process left of a line
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise InputError(describe_os_error(error, self.path / ROWS)) from error


def _ends_whole(file) -> bool:
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"
