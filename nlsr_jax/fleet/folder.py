"""The folder of a fleet: the output and the state of every job."""

import json
import os
import pathlib
from typing import Any, NamedTuple

from nlsr_jax.errors import InputError
from nlsr_jax.files.apart import Inputs, check_apart
from nlsr_jax.files.claims import Claims
from nlsr_jax.files.json_files import read_json_object
from nlsr_jax.files.output import describe_os_error
from nlsr_jax.files.paths import expand, is_folder, is_regular
from nlsr_jax.formats.record import FILE as RECORD
from nlsr_jax.training.folder import write_whole

STATES = ".fleet"


class State(NamedTuple):
    """The state of a job.

    Attributes:
      asked: digest of all that is asked for.
      attempt: the run of the fleet that began or ended it.
      before: seal of the output that existed when the job began; None if there was none.
      error: why there is no output; None if there is one.
      withheld: whether there is no output because it did not pass its check.
      seconds: duration of the job; None if it has not ended.
    """

    asked: str
    attempt: str
    before: str | None = None
    error: str | None = None
    withheld: bool = False
    seconds: float | None = None


class FleetFolder:
    """The folder; several processes may work in it at once.

    Args:
      path: the folder; created if missing.
      inputs: what is read, by the name for messages; the folder must not overlap with it.

    Attributes:
      path: the argument.
      claims: of the processes that share the folder.

    Raises:
      InputError: a folder of other files, one that overlaps with an input, or that cannot be written to.
    """

    def __init__(self, path: str | os.PathLike, inputs: Inputs | None = None):
        self.path = expand(path)
        check_apart(self.path, inputs)
        if self.path.is_symlink() or (self.path.exists() and not is_folder(self.path)):
            raise InputError(f"{self.path}: exists and is not a folder; name another output")
        try:
            self._check_own()
            (self.path / STATES).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(describe_os_error(error, self.path)) from error
        self.claims = Claims(self.path / STATES)

    def _check_own(self) -> None:
        if not is_folder(self.path) or is_folder(self.path / STATES):
            return
        others = sorted(entry.name for entry in self.path.iterdir())
        if others:
            raise InputError(
                f"{self.path}: holds {others[0]} and no {STATES}, so it is not the folder of a fleet; name another "
                "output"
            )

    def output(self, name: str) -> pathlib.Path:
        """Return the folder of a job's output."""
        return self.path / name

    def record(self, name: str) -> dict[str, Any] | None:
        """Return the record of a job's output; None if none can be read."""
        try:
            return read_json_object(self.output(name) / RECORD, "record")
        except InputError:
            return None

    def seal(self, name: str) -> str | None:
        """Return the seal of a job's output; None if there is none."""
        seal = (self.record(name) or {}).get("seal")
        return seal if isinstance(seal, str) else None

    def state(self, name: str) -> State | None:
        """Return the state of a job; None if it was never begun."""
        file = self._file(name)
        if not is_regular(file):
            return None
        try:
            return State(**read_json_object(file, "state"))
        except (InputError, TypeError):
            return None

    def keep(self, name: str, state: State) -> None:
        """Write the state of a job.

        Raises:
          InputError: it cannot be written.
        """
        file = self._file(name)
        try:
            write_whole(file, (json.dumps(state._asdict(), indent=1) + "\n").encode())
        except OSError as error:
            raise InputError(describe_os_error(error, file)) from error

    def _file(self, name: str) -> pathlib.Path:
        return self.path / STATES / f"{name}.json"
