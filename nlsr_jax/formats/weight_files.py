"""Which file of a Hugging Face directory holds each tensor: the files that transformers reads, and no others.

Source: transformers 5, ``modeling_utils``: ``model.safetensors`` comes first, whatever else is there. Of the shards
that an index names every tensor is taken, and of two with one name the one in the last shard by file name.
"""

import pathlib
import re
from collections.abc import Mapping
from typing import NamedTuple

from nlsr_jax.errors import InputError
from nlsr_jax.files.json_files import read_json_object
from nlsr_jax.files.paths import is_regular, leads_outside
from nlsr_jax.files.safetensors_files import SafetensorsFile, open_checked
from nlsr_jax.formats.quantised import dequantised

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
_LIKE_WEIGHTS = re.compile(r"model[-.][\w.-]*safetensors([\w.-]*\.json)?")


class Located(NamedTuple):
    """Open weight files.

    Attributes:
      files: which of them holds each tensor.
      notes: what a user should know about irregular files of the folder.
    """

    files: dict[str, SafetensorsFile]
    notes: tuple[str, ...]


def locate(folder: pathlib.Path) -> Located:
    """Open the weight files of a model directory; quantised weights are dequantised when they are read.

    Raises:
      InputError: there are none that can be read, an index that names what is not in the folder, or quantised
        weights that are not as the config says.
    """
    stored = _locate_stored(folder)
    files, notes = dequantised(folder, stored.files)
    return Located(files, (*stored.notes, *notes))


def _locate_stored(folder: pathlib.Path) -> Located:
    if not is_regular(folder / WEIGHTS):
        if is_regular(folder / INDEX):
            return _locate_shards(folder)
        _refuse_others(folder)
    file = open_checked(folder / WEIGHTS)
    return Located(dict.fromkeys(file.names(), file), _note_unread(folder, {WEIGHTS}, f"{WEIGHTS} comes first"))


def _refuse_others(folder: pathlib.Path) -> None:
    """Refuse a folder without weights that can be read, and say what is there instead."""
    if any(folder.glob("*.bin")):
        raise InputError(
            f"{folder}: holds only .bin weights, pickles, which are never opened; load the model with transformers "
            "and save it again (safetensors is the default)"
        )
    if others := _others(folder, set()):
        raise InputError(f"{folder}: no {WEIGHTS} and no {INDEX}, only {_some(others)}; rename what should be read")


def _locate_shards(folder: pathlib.Path) -> Located:
    index = read_json_object(folder / INDEX, "weight index")
    mapping = index.get("weight_map")
    if not isinstance(mapping, dict) or not mapping:
        raise InputError(f"{folder / INDEX}: no weight_map")
    opened: dict[str, SafetensorsFile] = {}
    for tensor, name in mapping.items():
        if not isinstance(name, str) or not re.fullmatch(r"[\w.-]+\.safetensors", name):
            raise InputError(
                f"{folder / INDEX}: {tensor} is in {name!r}; expected a safetensors file of this folder"
            )
        if name not in opened:
            _check_inside(folder, name)
            opened[name] = open_checked(folder / name)
    places: dict[str, list[str]] = {}
    for name, file in sorted(opened.items()):
        for tensor in file.names():
            places.setdefault(tensor, []).append(name)
    files = {tensor: opened[names[-1]] for tensor, names in places.items()}
    notes = _note_index(folder, mapping, places)
    return Located(files, (*notes, *_note_unread(folder, {INDEX, *opened}, "the index does not name them")))


def _note_index(folder: pathlib.Path, mapping: Mapping[str, str], places: Mapping[str, list[str]]) -> list[str]:
    """Return notes on where an index and its shards disagree."""
    several = {tensor: names for tensor, names in places.items() if len(names) > 1}
    found = [
        f"{tensor} is in {' and '.join(names)}{_more(several)}: the last of them counts"
        for tensor, names in list(several.items())[:1]
    ]
    moved = [t for t, name in mapping.items() if t in places and places[t][-1] != name and t not in several]
    found += [f"{t} is in {places[t][-1]} and not in {mapping[t]}{_more(moved)}" for t in moved[:1]]
    unnamed = [t for t in places if t not in mapping]
    found += [f"{places[t][-1]} holds {t}, which the index does not name{_more(unnamed)}" for t in unnamed[:1]]
    absent = [t for t in mapping if t not in places]
    found += [f"no shard holds {t}, which the index names{_more(absent)}" for t in absent[:1]]
    return [f"{folder / INDEX}: {text}; the shards decide, as in transformers" for text in found]


def _more(found) -> str:
    return f" (and {len(found) - 1} more)" if len(found) > 1 else ""


def _note_unread(folder: pathlib.Path, read: set[str], why: str) -> tuple[str, ...]:
    """Return a note on files that look like weights of the model and are not read."""
    others = _others(folder, read)
    return (f"{folder}: {_some(others)}: not read, as in transformers; {why}",) if others else ()


def _others(folder: pathlib.Path, read: set[str]) -> list[str]:
    return sorted(e.name for e in folder.iterdir() if e.name not in read and _LIKE_WEIGHTS.fullmatch(e.name))


def _some(names: list[str]) -> str:
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def _check_inside(folder: pathlib.Path, name: str) -> None:
    """Refuse a file that is a link out of the folder, unless into the store of the hub's own cache."""
    if (file := leads_outside(folder, name)) is not None:
        raise InputError(f"{folder / name}: a link out of this folder, to {file}; copy the file in its place")
