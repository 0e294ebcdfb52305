"""The data of a study that a user gives: places of data sets by name, tasks with their columns, and what was read.

A name is that of a data set (``nlsr_jax.data.sources``), of a role or of a task (``nlsr_jax.data.own_sets``).
``NAME.train`` and ``NAME.test`` give training and test rows apart.
"""

import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from nlsr_jax.data.collecting import Loaded
from nlsr_jax.data.own_sets import ROLES, OwnTask, load_role
from nlsr_jax.data.places import hub_place, keeps_apart, pinned_place
from nlsr_jax.data.rows import SUFFIXES, Note, no_note
from nlsr_jax.data.sources import DATA_SETS, DataSet, find, load
from nlsr_jax.errors import InputError
from nlsr_jax.files.digests import sha256
from nlsr_jax.files.paths import exists, expand, expand_text, is_folder, is_regular
from nlsr_jax.types import Tokenizer

TRAIN, TEST = "train", "test"
PARTS = (TRAIN, TEST)
_TRAINING = (
    "beavertails_safe",
    "beavertails_harmful",
    "safe_rlhf",
    *(n for n, role in ROLES.items() if role.trains),
)
_TESTING = ("beavertails_prompts", "harmbench", "alpaca", *(n for n, role in ROLES.items() if not role.trains))


class Given:
    """The data of a study.

    Args:
      places: file, folder or hub name by ``NAME``, ``NAME.train`` or ``NAME.test``.
      tasks: tasks of the user's by name.

    Attributes:
      places, tasks: the arguments.
      read: parts of the local files that were read.
      pinned: hub data sets that were read: the name with its revision, if the hub told it, by the given name.
    """

    def __init__(self, places: Mapping[str, str] | None = None, tasks: Mapping[str, OwnTask] | None = None):
        self.places, self.tasks = dict(places or {}), dict(tasks or {})
        self.read: dict[str, set[str]] = {}
        self.pinned: dict[str, str] = {}

    def place(self, name: str, part: str) -> str | None:
        """Return where rows come from: a file for the part, or a place that tells parts apart; None for the hub."""
        place = self.places.get(f"{name}.{part}", self.places.get(name))
        if place is None:
            return None
        folder = expand(place)
        files = [folder / f"{name}.{part}{suffix}" for suffix in SUFFIXES]
        found = next(filter(is_regular, files), None) if is_folder(folder) else None
        return str(found) if found else place

    def data_set(self, name: str) -> DataSet:
        """Return a data set or the data set of a task."""
        return DataSet(self.tasks[name].convert) if name in self.tasks else find(name)

    def has(self, role: str, part: str) -> bool:
        """Return whether rows of a role are given."""
        return f"{role}.{part}" in self.places or role in self.places

    def load(self, name: str, part: str, **options: Any) -> Loaded:
        """Load the rows of a part; for the options see ``load``.

        Raises:
          InputError: if rows cannot be read, or a task of the user's has none.
        """
        place, data_set = self._noted(name, part), self.data_set(name)
        if place is None and name in self.tasks:
            raise InputError(f"--data names no rows of {name} for {_WORDS[part]}; give --data {name}.{part}=FILE")
        split = data_set.train if part == TRAIN else data_set.test
        return load(data_set, self._pinned(place or data_set.hub), split=split, **options)

    def load_role(
        self,
        role: str,
        *,
        count: int | None = None,
        template: str = "none",
        tokenizer: Tokenizer | None = None,
        note: Note = no_note,
    ) -> Loaded:
        """Load the rows of a role; see ``nlsr_jax.data.own_sets.load_role``."""
        part = TRAIN if ROLES[role].trains else TEST
        place = self._noted(role, part)
        assert place is not None
        options: dict[str, Any] = {"template": template, "tokenizer": tokenizer, "note": note}
        return load_role(role, self._pinned(place), split=part, count=count, **options)

    def _pinned(self, place: str) -> str:
        if place not in self.pinned and hub_place(place) is not None:
            self.pinned[place] = pinned_place(place)
        return self.pinned.get(place, place)

    def _noted(self, name: str, part: str) -> str | None:
        place = self.place(name, part)
        if place is not None and is_regular(expand(place)):
            parts = self.read.setdefault(str(expand(place).resolve()), set())
            parts.add(part)
            if len(parts) > 1 and not keeps_apart(place, TRAIN, TEST):
                raise _mixed(name, place, name, name)
        return place

    def files(self) -> list[dict[str, str]]:
        """Return the files that were read: ``name``, ``sha256`` and ``rows``, the part, or all without a split."""
        found = []
        for file, parts in sorted(self.read.items()):
            name, digest, apart = pathlib.Path(file).name, sha256(file), keeps_apart(file, TRAIN, TEST)
            found += [{"name": name, "sha256": digest, "rows": part if apart else "all"} for part in sorted(parts)]
        return found

    def check_apart(self, tasks: Iterable[str]) -> None:
        """Check that no place gives the same rows for training and for the evaluation.

        Args:
          tasks: names of the tasks that are trained and examined.

        Raises:
          InputError: naming the place.
        """
        tasks = tuple(tasks)
        trained = {_normal(place): name for name in (*_TRAINING, *tasks) if (place := self.place(name, TRAIN))}
        for name in (*_TESTING, *tasks):
            place = self.place(name, TEST)
            if place is None or (other := trained.get(_normal(place))) is None:
                continue
            splits = self._splits(other)[0], self._splits(name)[1]
            if not keeps_apart(place, *splits, None if name in ROLES else self.data_set(name).config):
                raise _mixed(name, place, other, name)

    def _splits(self, name: str) -> tuple[str, str]:
        if name in ROLES:
            return TRAIN, TEST
        data_set = self.data_set(name)
        return data_set.train, data_set.test


_WORDS = {TRAIN: "training", TEST: "the evaluation"}


def _mixed(name: str, place: str, trained: str, tested: str) -> InputError:
    """Return the error that a place gives the same rows for training and for the evaluation."""
    return InputError(
        f"--data {name}={place}: the same rows are for training ({trained}) and for the evaluation ({tested}); "
        f"give two places, --data {trained}.train=FILE and --data {tested}.test=FILE, or a file with a column "
        "'split' of train and test"
    )


def _normal(place: str) -> str:
    path = pathlib.Path(expand_text(place))
    return str(path.resolve()) if exists(path) else place


def known_names(tasks: Iterable[str] = ()) -> tuple[str, ...]:
    """Return the names under which data can be given."""
    return (*DATA_SETS, *ROLES, *tasks)


def check_names(places: Mapping[str, str], tasks: Iterable[str] = ()) -> None:
    """Check the names of places.

    Raises:
      InputError: if one is unknown.
    """
    known = known_names(tasks)
    for full in places:
        name, dot, part = full.partition(".")
        if name not in known or (dot and part not in PARTS):
            raise InputError(
                f"--data names {full!r}; expected NAME=PATH, NAME.train=PATH or NAME.test=PATH with NAME one of "
                f"{', '.join(known)}"
            )
