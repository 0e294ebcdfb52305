"""The store of a sweep: one folder with the rows of its cells."""

import contextlib
import fcntl
import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from nlsr_jax.errors import InputError
from nlsr_jax.files.apart import Inputs, check_apart
from nlsr_jax.files.claims import Claims
from nlsr_jax.files.output import describe_os_error
from nlsr_jax.files.paths import expand, is_folder, is_regular
from nlsr_jax.training.folder import write_whole

ROWS, STUDY, LOCK = "rows.jsonl", "study.json", ".lock"
_STUDY_PARTIAL = f".{STUDY}.partial"


def check_store(path: pathlib.Path, inputs: Inputs | None = None) -> None:
    """Refuse a folder that cannot store rows; see ``CellStore``."""
    check_apart(path, inputs)
    if not is_folder(path) or is_regular(path / STUDY):
        return
    others = sorted(entry.name for entry in path.iterdir() if entry.name not in (LOCK, _STUDY_PARTIAL))
    if others:
        raise InputError(
            f"{path}: contains {others[0]} but no {STUDY}, so it is not a folder of rows; name another output"
        )


class CellStore:
    """Rows of a sweep on disk, each appended when its cell is done; several processes may write concurrently.

    Args:
      path: the folder; created if missing.
      study: values that identify the study of the rows; must be JSON-serialisable.
      inputs: input paths by the name for messages; the folder must not overlap with any of them.

    Attributes:
      claims: claims of the processes that share the folder.

    Raises:
      InputError: if the folder has rows of another study or foreign files, overlaps with an input, or cannot be
        written.
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
                raise InputError(f"{self.path}: has rows of another study; name another output or remove it")
        self.claims = Claims(self.path)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Lock out other processes; the lock ends with the process, however it dies."""
        with (self.path / LOCK).open("a") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    def rows(self) -> dict[str, dict]:
        """Return the rows by cell name; a line truncated by a kill is ignored."""
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
                raise InputError(f"{file}: line {number} is not a row of a sweep; remove the line")
            found[row["cell"]] = row
        return found

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a row, whose ``cell`` is its name, and wait until it is on disk.

        Raises:
          InputError: if it cannot be written.
        """
        line = (json.dumps(dict(row), allow_nan=False) + "\n").encode()
        try:
            with self._locked(), (self.path / ROWS).open("ab+") as file:
                if file.tell() and not _ends_whole(file):
                    line = b"\n" + line  # after a line truncated by a kill
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise InputError(describe_os_error(error, self.path / ROWS)) from error


def _ends_whole(file) -> bool:
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"
