"""The record of a run: settings, key data, digests of all files, versions, device, times."""

import concurrent.futures
import functools
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
from collections.abc import Callable, Mapping
from typing import Any

import jax

from nlsr_jax.errors import InputError
from nlsr_jax.files.digests import sha256
from nlsr_jax.files.folders import elsewhere
from nlsr_jax.files.json_files import read_json_object
from nlsr_jax.files.numbers import find_not_finite
from nlsr_jax.files.paths import exists, expand, is_folder

FILE = "realignment.json"
FORMAT = "nlsr_jax.realignment"
VERSION = 1

_PACKAGES = (
    "nlsr_jax",
    "jax",
    "jaxlib",
    "flax",
    "numpy",
    "safetensors",
    "orbax-checkpoint",
    "transformers",
)


class Digests:
    """Digests of input files, computed by a thread while the run goes on.

    Args:
      digest: returns the SHA-256 of a file.
    """

    def __init__(self, digest: Callable[[pathlib.Path], str] = sha256):
        self._digest = digest
        self._pool = concurrent.futures.ThreadPoolExecutor(1)
        self._found: dict[str, tuple[str, dict[str, concurrent.futures.Future]]] = {}

    def add(
        self, name: str, path: str | os.PathLike, files: list[pathlib.Path], *, root: pathlib.Path | None = None
    ) -> None:
        """Start to digest ``files``, the parts of the input ``name`` that was given as ``path``; once is enough.

        Args:
          name: of the input.
          path: as it was given.
          files: its parts.
          root: the folder that their names are relative to; None for names without folders.
        """
        names = {file: file.name if root is None else file.relative_to(root).as_posix() for file in files}
        before = self._found.get(name)
        if before is not None and before[0] == str(path) and set(before[1]) == set(names.values()):
            return
        started = {names[file]: self._pool.submit(self._digest, file) for file in files}
        self._found[name] = (str(path), started)

    def add_data(self, name: str, path: str | os.PathLike) -> None:
        """Start to digest a data set: a file, or all files of a folder; one of the hub has none here.

        Args:
          name: of the input.
          path: as it was given.
        """
        place = expand(path)
        if is_folder(place):
            files = sorted(file for file in place.rglob("*") if file.is_file())
            self.add(name, path, files, root=place)
        else:
            self.add(name, path, [place] if place.is_file() else [])

    def result(self) -> dict[str, dict]:
        """Return ``{name: {"path", "files": {file name: sha256}}}``.

        Raises:
          InputError: a file that cannot be read.
        """
        return {name: {"path": path, "files": self.of(name)} for name, (path, _) in self._found.items()}

    def of(self, name: str) -> dict[str, str]:
        """Return ``{file name: sha256}`` of one input; see ``result``."""
        path, files = self._found[name]
        found = {}
        for file, future in sorted(files.items()):
            try:
                found[file] = future.result()
            except OSError as error:
                raise InputError(f"{path}: {file} cannot be read ({error.strerror or error})") from error
        return found

    def close(self) -> None:
        """Drop what has not been started."""
        self._pool.shutdown(wait=True, cancel_futures=True)


def digest_folder(folder: pathlib.Path, known: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return ``{path inside the folder: sha256}`` of all its files.

    Args:
      folder: where to look.
      known: digests that have been taken already.
    """
    names = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    known = known or {}
    return {name: known.get(name) or sha256(folder / name) for name in names}


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide the result."""
    return {"python": platform.python_version(), **{package: _version(package) for package in _PACKAGES}}


@functools.cache
def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def device() -> dict:
    """Return the platform, kind and number of the devices in use."""
    devices = jax.devices()
    return {"platform": devices[0].platform, "kind": devices[0].device_kind, "count": len(devices)}


def dump(record: dict) -> str:
    """Return the record as JSON text with a fixed order and layout.

    Raises:
      InputError: a number that is NaN or infinite, named by its place.
    """
    if found := find_not_finite(record):
        raise InputError(f"record: {found}; expected a finite number")
    return json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def seal(record: dict) -> str:
    """Return the SHA-256 of the text of a record that has no ``seal`` yet, for its last field of that name."""
    return hashlib.sha256(dump(record).encode()).hexdigest()


def is_sealed(path: str | os.PathLike) -> bool:
    """Whether the text of a record is, byte for byte, what was written and sealed."""
    record = read_json_object(path, "record")
    bare = {name: value for name, value in record.items() if name != "seal"}
    try:
        return record.get("seal") == seal(bare) and expand(path).read_bytes() == dump(record).encode()
    except ValueError:  # a number without end or half a surrogate pair, which no run writes
        return False


@functools.cache
def commit() -> str | None:
    """Return the git commit of the package's source, None where it is no checkout."""
    root = pathlib.Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    try:
        found = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()


def read_record(path: str | os.PathLike) -> dict:
    """Read and check a realignment record.

    Args:
      path: ``realignment.json`` or a folder that holds it.

    Raises:
      InputError: it is missing, is not such a record, or is of a version that is not known.
    """
    path = expand(path)
    if is_folder(path):
        folder, path = path, path / FILE
        if not exists(path):
            raise InputError(f"{path}: no such file; expected the realignment record{elsewhere(folder, (FILE,))}")
    record = read_json_object(path, "realignment record")
    if record.get("format") != FORMAT:
        raise InputError(f"{path}: not a realignment record (format is {record.get('format')!r})")
    if record.get("format_version") != VERSION:
        raise InputError(f"{path}: record version {record.get('format_version')!r}; expected {VERSION}")
    if not isinstance(record.get("settings"), dict) or not isinstance(record.get("inputs"), dict):
        raise InputError(f"{path}: the record has no settings or no inputs")
    if not are_inputs(record["inputs"]):
        raise InputError(f"{path}: the record's inputs are not paths with the digests of their files")
    return record


def are_inputs(entries: Mapping[str, Any]) -> bool:
    """Say whether this is ``{input: {"path", "files": {name: sha256}} or None}``."""
    return all(
        entry is None
        or (isinstance(entry, dict) and isinstance(entry.get("path"), str) and isinstance(entry.get("files"), dict))
        for entry in entries.values()
    )


def check_digests(recorded: dict, found: dict, where: str | os.PathLike) -> None:
    """Check that the inputs are those of the record.

    Args:
      recorded, found: ``{input: {"path", "files": {name: sha256}}}``.
      where: the record, for the message.

    Raises:
      InputError: naming the first file that differs.
    """
    for name, entry in recorded.items():
        if entry is None:
            continue
        now = (found.get(name) or {}).get("files")
        if now == entry["files"]:
            continue
        different = sorted(
            f for f in {*entry["files"], *(now or {})} if entry["files"].get(f) != (now or {}).get(f)
        )
        flag = "finetuned" if name == "companions" else name  # which lie beside the adapter
        raise InputError(
            f"{where}: {name} file {different[0]} is not the one of the record "
            f"(SHA-256 differs or it is missing); give the original with --{flag}"
        )
