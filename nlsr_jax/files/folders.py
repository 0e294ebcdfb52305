"""Messages for a folder of the wrong kind: what it is, and which folder was probably meant.

A killed run leaves only checkpoints, a trainer writes each named adapter into its own folder, and users give a
model where an adapter is expected. The folder that was meant mostly lies below, or is of another kind.
"""

import os
import pathlib
import re

from nlsr_jax.errors import InputError
from nlsr_jax.files.json_files import read_json_object
from nlsr_jax.files.paths import is_folder, is_regular

_DEPTH = 3
_ENTRIES = 2000
_SHOWN = 6


def folders_below(path: str | os.PathLike, holding: tuple[str, ...]) -> list[pathlib.Path]:
    """Return the folders below that hold one of the given files: nearer ones first, then the latest checkpoint.

    Args:
      path: where to look, three levels deep and at two thousand entries at most.
      holding: names of files.
    """
    found, left = [], _ENTRIES
    level = [pathlib.Path(path)]
    for _ in range(_DEPTH):
        below: list[pathlib.Path] = []
        for folder in level:
            entries, left = _folders(folder, left)
            below += entries
        found += [folder for folder in below if any(is_regular(folder / name) for name in holding)]
        level = below
    return sorted(found, key=lambda folder: _order(folder.relative_to(path)))


def _folders(folder: pathlib.Path, left: int) -> tuple[list[pathlib.Path], int]:
    try:
        entries = [entry for _, entry in zip(range(left), folder.iterdir(), strict=False)]
    except OSError:
        return [], left
    found = [entry for entry in entries if entry.name.isprintable() and not entry.is_symlink() and is_folder(entry)]
    return found, left - len(entries)


def _order(place: pathlib.PurePath):
    """Sort key: nearer folders first, then the highest checkpoint number, then the name."""
    numbers = [re.search(r"(\d{1,12})$", part) for part in place.parts]
    return len(place.parts), [(-int(n[1]) if n else 1, p) for n, p in zip(numbers, place.parts, strict=True)]


def did_you_mean(path: str | os.PathLike, holding: tuple[str, ...]) -> str:
    """Return ``"; did you mean …?"`` with the folders below that hold one of the given files, or an empty text."""
    found = folders_below(path, holding)
    if not found:
        return ""
    others = [folder.relative_to(path).as_posix() for folder in found[1:]]
    more = f" and {len(others) - _SHOWN} more" if len(others) > _SHOWN else ""
    also = ", ".join(others[:_SHOWN]) + more
    return f"; did you mean {found[0]}" + (f" (or {also} below it)?" if others else "?")


def elsewhere(path: str | os.PathLike, holding: tuple[str, ...], instead: str = "") -> str:
    """Return what a folder is and which folder was probably meant; an empty text if neither is known.

    Args:
      path: the folder.
      holding: names of files, one of which was expected.
      instead: what to do about a folder of another kind.
    """
    path = pathlib.Path(path)
    kind = _kind(path)
    told = f"; {kind}{f': {instead}' if instead else ''}" if kind else ""
    return told + did_you_mean(path, holding)


def _kind(path: pathlib.Path) -> str:
    if is_regular(path / "realignment.json"):
        return "it is the output of a realignment"
    if is_regular(path / "adapter_config.json"):
        return "it is an adapter" + _base(path)
    if is_regular(path / "config.json"):
        return "it is a full model, or an adapter merged into one (config.json, no adapter_config.json)"
    return "it holds masks" if is_regular(path / "masks.safetensors") else ""


def _base(path: pathlib.Path) -> str:
    try:
        base = read_json_object(path / "adapter_config.json", "adapter config").get("base_model_name_or_path")
    except InputError:
        return ""
    return f" of {base[:200]}" if isinstance(base, str) and base.strip() and base.isprintable() else ""
