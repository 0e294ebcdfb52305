"""Recognise what this project has written; ``--overwrite`` replaces nothing else.

A folder is recognised by the record that its command wrote, and every file in it by that record: by its digest if
the record holds one, else by its name and layout. A single file is recognised by the fields that its command
writes.
"""

import functools
import itertools
import json
import os
import pathlib
import re
import time
from collections.abc import Callable, Collection, Mapping, Sequence

from nlsr_jax.errors import InputError
from nlsr_jax.files.digests import sha256
from nlsr_jax.files.json_files import read_json, read_json_object
from nlsr_jax.files.limits import LIMITS
from nlsr_jax.files.paths import is_folder, is_regular

Foreign = Callable[[pathlib.Path], str | None]
"""Returns what of a folder or file this project has not written; None if it has written all of it."""

STATEMENT, ENVELOPE, BUNDLE = "attestation.json", "attestation.dsse.json", "attestation.sigstore.json"
"""What ``nlsr attest`` adds to the output of a run: a statement, and its signatures by a key and by an identity."""
ATTESTATIONS = {
    STATEMENT: ("_type", "predicateType", "subject"),
    ENVELOPE: ("payload", "payloadType", "signatures"),
    BUNDLE: ("mediaType", "dsseEnvelope"),
}
"""By file of an attestation: fields of its JSON object."""

_SHOWN = 3
_SETTLED = 2.0
"""Seconds after which a change of a file shows in its times, whatever the resolution of the file system."""
_CONFIG = "adapter_config.json"
_ADAPTER = r"adapter_config\.json|adapter_model\.safetensors"
_MODEL = (
    r"config\.json|model\.safetensors|chat_template\.jinja|tokenizer\.(json|model)|tokenizer_config\.json|"
    r"special_tokens_map\.json|added_tokens\.json|vocab\.json|merges\.txt"
)
_METRICS = "metrics.jsonl"
_TRAINED_ADAPTER, _TRAINED_MODEL = (rf"training\.json|metrics\.jsonl|{files}" for files in (_ADAPTER, _MODEL))
_REPORT = "<title>Safety realignment, "
_STORY = rf"table\.json|report\.html|(finetuned|realigned)/({_ADAPTER})"
_STUDY = (
    r"(table|objectives|sweeps)\.json|report\.html|README\.md|(calibration|harmless)\.jsonl|"
    rf"base/({_MODEL})|(sft|dpo|(finetuned|realigned)_\w+)/({_ADAPTER})"
)
_DIGEST = re.compile("[0-9a-f]{64}")
_ROW = ("method", "task", "poison_ratio", "seed", "hs")


def nothing_foreign(_: pathlib.Path) -> None:
    """Accept everything; for places inside a folder of this project."""


def check_own(path: pathlib.Path, foreign: Foreign) -> None:
    """Refuse to replace what this project has not written.

    Args:
      path: a folder or file that exists.
      foreign: returns what of it this project has not written.

    Raises:
      InputError: naming what would be lost.
    """
    if (found := foreign(path)) is not None:
        raise InputError(
            f"{path}: --overwrite replaces only what nlsr_jax has written, and {found}; "
            "name another output, or move what is there"
        )


def foreign_folder(folder: pathlib.Path) -> str | None:
    """Return what of a folder the realignment, identification, training or check of its record has not written."""
    return _foreign(folder, _RECORDS)


def foreign_study(folder: pathlib.Path) -> str | None:
    """Return what of a folder the study of its ``table.json`` has not written; see ``Foreign``."""
    return _foreign(folder, {"table.json": _foreign_to_table})


def foreign_file(file: pathlib.Path) -> str | None:
    """Treat every file as foreign unless it is empty."""
    return "this file is another one" if file.stat().st_size else None


def foreign_adapter(folder: pathlib.Path) -> str | None:
    """Do as ``foreign_folder``, but accept a folder of ``save_adapter``."""
    own = _is_pair(folder, _CONFIG, "adapter_model.safetensors", _is_own_adapter)
    return None if own else foreign_folder(folder)


def foreign_model(folder: pathlib.Path) -> str | None:
    """Do as ``foreign_folder``, but accept a folder of ``save_params``."""
    own = _is_pair(folder, "config.json", "model.safetensors", lambda config: "transformers_version" not in config)
    return None if own else foreign_folder(folder)


def json_with(*fields: str) -> Foreign:
    """Return a ``Foreign`` that accepts a file of one JSON object with these fields, and an empty file."""

    def say(file: pathlib.Path) -> str | None:
        if not file.stat().st_size:
            return None
        try:
            known = set(fields) <= set(read_json_object(file, "output"))
        except InputError:
            known = False
        return None if known else f"this file is not a JSON object with {', '.join(fields)}"

    return say


def lines_with(*fields: str, others: Collection[str] | None = None) -> Foreign:
    """Return a ``Foreign`` that accepts a file of JSON lines with these fields, and an empty file.

    Args:
      *fields: fields of every line.
      others: further fields that a line may have; None for any.
    """

    def say(file: pathlib.Path) -> str | None:
        with file.open("rb") as lines:
            for number, line in enumerate(iter(lambda: lines.readline(LIMITS.json_bytes), b""), 1):
                found = _fields(line)
                if not set(fields) <= found:
                    return f"line {number} of this file is not a JSON object with {', '.join(fields)}"
                if others is not None and (added := sorted(found - {*fields, *others})):
                    return f"line {number} of this file has {_shown(added)} beside {', '.join(fields)}"
        return None

    return say


def parquet_with(*columns: str) -> Foreign:
    """Return a ``Foreign`` that accepts a Parquet file with these columns, and an empty file."""

    def say(file: pathlib.Path) -> str | None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            known = not file.stat().st_size or set(columns) <= set(pq.read_schema(file).names)
        except (pa.ArrowException, OSError):
            known = False
        return None if known else f"this file is not a Parquet table with {', '.join(columns)}"

    return say


def text_with(mark: str) -> Foreign:
    """Return a ``Foreign`` that accepts a text that contains ``mark``, and an empty file."""

    def say(file: pathlib.Path) -> str | None:
        data = file.read_bytes()
        return None if not data or mark.encode() in data else "this file is another one"

    return say


def _fields(line: bytes) -> set[str]:
    """Return the fields of a JSON object; an empty set for anything else."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return set()
    return set(value) if isinstance(value, dict) else set()


def _foreign_to_record(kind: str) -> Callable[[pathlib.Path, str], str | None]:
    """Return what finds files that are not, byte for byte, as the folder's record of this kind holds them."""

    def say(folder: pathlib.Path, name: str) -> str | None:
        try:
            record = read_json_object(folder / name, "record")
        except InputError:
            record = {}
        digests = record.get("outputs")
        if record.get("format") != kind or not isinstance(digests, dict):
            return f"{name} is not the record of a run"
        return _not_of(folder, name, _files(folder) - {name} - _attestations(folder), digests)

    return say


def _attestations(folder: pathlib.Path) -> set[str]:
    """Return which files of a folder are attestations of its output."""
    there = (name for name in ATTESTATIONS if is_regular(folder / name))
    return {name for name in there if json_with(*ATTESTATIONS[name])(folder / name) is None}


def _not_of(folder: pathlib.Path, name: str, there: set[str], digests: Mapping[str, object]) -> str | None:
    """Return which files the record ``name`` lacks or has with another digest."""
    if others := sorted(there - set(digests)):
        return f"the run of {name} has not written {_shown(others)}"
    changed = (file for file in sorted(there) if not _is(folder / file, digests[file]))
    first = list(itertools.islice(changed, _SHOWN))
    return f"{_shown(first)} is not what the run of {name} has written" if first else None


def _foreign_to_training(folder: pathlib.Path, name: str) -> str | None:
    try:
        run = read_json_object(folder / name, "record")
    except InputError:
        run = {}
    digests = [run.get(part) for part in ("start", "base", "rows")]
    if not isinstance(run.get("settings"), dict) or not all(_is_digest(digest) for digest in digests):
        return f"{name} is not the record of a training"
    there = _files(folder) - {name}
    if _METRICS in there and (found := lines_with("step", "loss")(folder / _METRICS)):
        return f"of {_METRICS}, {found}"
    if isinstance(outputs := run.get("outputs"), dict):
        return _not_of(folder, name, there - {_METRICS}, outputs)
    # Former versions recorded no digests of trainings.
    adapter = is_regular(folder / _CONFIG)
    return _other_names(folder, name, _TRAINED_ADAPTER if adapter else _TRAINED_MODEL) or _not_laid_out(
        folder, name
    )


def _foreign_to_table(folder: pathlib.Path, name: str) -> str | None:
    try:
        rows = read_json(folder / name, "table")
    except InputError:
        rows = None
    known = isinstance(rows, list) and all(isinstance(row, dict) and set(_ROW) <= set(row) for row in rows)
    if not rows or not known:
        return f"{name} is not the table of a study"
    if others := _other_names(folder, name, _STUDY if is_folder(folder / "base") else _STORY):
        return others
    report = folder / "report.html"
    if is_regular(report) and (found := text_with(_REPORT)(report)):
        return f"of {report.name}, {found}"
    return _not_laid_out(folder, name)


_RECORDS: dict[str, Callable[[pathlib.Path, str], str | None]] = {
    "realignment.json": _foreign_to_record("nlsr_jax.realignment"),
    "identification.json": _foreign_to_record("nlsr_jax.identification"),
    "training.json": _foreign_to_training,
    "check.json": _foreign_to_record("nlsr_jax.check"),
}
"""By record: how the files of a command's folder are compared with it."""


def _foreign(folder: pathlib.Path, records: Mapping[str, Callable[[pathlib.Path, str], str | None]]) -> str | None:
    for name, say in records.items():
        if is_regular(folder / name):
            return say(folder, name)
    names = sorted(path.name for path in folder.iterdir())
    return f"this folder holds {_shown(names)} and no {' or '.join(records)}"


def _is_pair(folder: pathlib.Path, config: str, weights: str, is_own: Callable[[dict], bool]) -> bool:
    """Say whether a folder holds just these two files, with the config laid out as this project does it."""
    return _files(folder) == {config, weights} and _is_laid_out(folder / config, is_own)


def _is_laid_out(config: pathlib.Path, is_own: Callable[[dict], bool]) -> bool:
    """Say whether a config is, byte for byte, laid out as this project does it."""
    try:
        value = read_json_object(config, "config")
        text = json.dumps(value, indent=2) + "\n"
        return is_own(value) and config.read_bytes() == text.encode()
    except (InputError, OSError):
        return False


def _not_laid_out(folder: pathlib.Path, name: str) -> str | None:
    """Return which adapter configs in a folder another program has written, and so perhaps their weights."""
    configs = sorted(file for file in _files(folder) if pathlib.PurePath(file).name == _CONFIG)
    others = [file for file in configs if not _is_laid_out(folder / file, _is_own_adapter)]
    return f"{_shown(others)} is not what the run of {name} has written" if others else None


def _is_own_adapter(config: dict) -> bool:
    """PEFT sorts the fields too, but writes no final newline, and adds a model card."""
    return list(config) == sorted(config) and config.get("inference_mode") is True


def _other_names(folder: pathlib.Path, record: str, pattern: str) -> str | None:
    others = sorted(file for file in _files(folder) if not re.fullmatch(pattern, file))
    return f"the run of {record} has not written {_shown(others)}" if others else None


def _files(folder: pathlib.Path) -> set[str]:
    """Return the paths inside a folder of all files and of links to folders."""
    found = set()
    for place, folders, files in os.walk(folder):
        links = [name for name in folders if (pathlib.Path(place) / name).is_symlink()]
        found |= {(pathlib.Path(place) / name).relative_to(folder).as_posix() for name in (*files, *links)}
    return found


def _is(file: pathlib.Path, digest: object) -> bool:
    try:
        return is_regular(file) and _digest(file) == digest
    except OSError:
        return False


def _digest(file: pathlib.Path) -> str:
    """Return the SHA-256 of a file; of one that has not changed for some time it is computed once."""
    found = file.stat()
    if time.time() - found.st_ctime < _SETTLED:
        return sha256(file)
    return _known_digest(file, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


@functools.lru_cache(1024)
def _known_digest(file: pathlib.Path, *_: int) -> str:
    return sha256(file)


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and _DIGEST.fullmatch(value) is not None


def _shown(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
