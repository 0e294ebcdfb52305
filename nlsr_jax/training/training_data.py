"""What files a model was trained on, as the record of its training says."""

import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from nlsr_jax.errors import InputError
from nlsr_jax.files.json_files import read_json_object
from nlsr_jax.files.paths import expand, is_regular

RECORD, DATA, ALL = "training.json", "data", "all"
_REALIGNMENT = "realignment.json"


def trained_files(folder: str | os.PathLike | None) -> dict[str, str]:
    """Return ``{sha256: rows}`` of the files that a model was trained on, as far as its record says.

    The output of a realignment was trained on what its fine-tuned adapter was.

    Args:
      folder: of the adapter or model; None, or a place without a record, gives nothing.
    """
    return {one["sha256"]: one["rows"] for one in training_data(folder)}


def training_data(folder: str | os.PathLike | None) -> list[dict[str, str]]:
    """Return the files behind ``trained_files``: ``name``, ``sha256`` and ``rows`` (a split, or all) of each."""
    if folder is None:
        return []
    place = expand(folder)
    repaired = _read(place / _REALIGNMENT)
    if repaired is not None:
        settings = repaired.get("settings")
        before = settings.get("finetuned") if isinstance(settings, Mapping) else None
        return [] if not isinstance(before, str) or pathlib.Path(before) == place else training_data(before)
    record = _read(place / RECORD) or {}
    return [one for one in record.get(DATA, []) if _is_file(one)] if isinstance(record.get(DATA), list) else []


def united(parts: Iterable[list[dict[str, str]]]) -> list[dict[str, str]]:
    """Return files once each, in a fixed order."""
    found = {tuple(sorted(one.items())): one for part in parts for one in part}
    return [found[key] for key in sorted(found)]


def _is_file(one: Any) -> bool:
    return isinstance(one, Mapping) and all(isinstance(one.get(name), str) for name in ("name", "sha256", "rows"))


def _read(path: pathlib.Path) -> dict[str, Any] | None:
    """Return a record; None where there is none that can be read."""
    if not is_regular(path):
        return None
    try:
        return read_json_object(path, "record")
    except InputError:
        return None
