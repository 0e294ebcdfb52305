"""Open a data set: a file, a directory of Parquet files, a saved data set, or a hub name."""

import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nlsr_jax.data.row_values import Row
from nlsr_jax.data.rows import SUFFIXES, TABLES, file_rows, hub_rows
from nlsr_jax.errors import InputError, reason_of
from nlsr_jax.files.paths import exists, expand_text, is_folder, is_regular
from nlsr_jax.formats.hub import HubName, is_pinned, parse_hub_name, pinned_data_set

SPLIT = "split"
"""The column that tells training rows from test rows in a single file."""
_WORDS = {
    "train": ("train", "training"),
    "test": ("test", "testing"),
    "validation": ("validation", "valid", "val", "dev"),
}
"""What a split is called in the column. Rows of the test are also taken where a set's own word is another."""
_SAVED = ("dataset_dict.json", "state.json")
_SHOWN, _LONGEST = 5, 40
_SPLIT_WORD = re.compile(r"(?:^|[-_.])(train|test|validation|valid|val|dev)(?:[-_.]|$)")


def pinned_place(place: str) -> str:
    """Return the name of a hub data set with the revision that it has now, so that a record means the same rows.

    Args:
      place: where rows are read; see ``open_rows``.

    Returns:
      The place unchanged if it is local, has a revision, or the hub does not answer.
    """
    name = hub_place(place)
    return place if name is None else str(name if is_pinned(name) else pinned_data_set(name))


def hub_place(place: str) -> HubName | None:
    """Return the name of a hub data set that a place is; None for a local place."""
    name = parse_hub_name(place)
    local = name is None or "/" not in name.id or pathlib.Path(place).suffix.lower() in SUFFIXES
    return None if local else name


def open_rows(
    source: str, split: str, config: str | None = None, reading: Mapping[str, Any] | None = None
) -> Iterator[Row]:
    """Yield the rows of a data set in file order, without checking their content.

    Args:
      source: one of
        a ``.jsonl``, ``.json``, ``.csv``, ``.tsv`` or ``.parquet`` file; only rows of the split if a column
        ``split`` tells them apart;
        a directory written by ``datasets.save_to_disk``;
        a directory of Parquet files; only those of the split if the file names tell splits apart;
        the name of a hub data set.
      split: the split to read.
      config: the configuration of a hub data set, or the folder of that name in a directory.
      reading: options of the hub's reader of CSV files. ``names`` are the columns of CSV files without a header, of
        which a directory may have several.

    Raises:
      InputError: if the source cannot be read or has no such split.
    """
    reading = reading or {}
    names = reading.get("names", ())
    source = expand_text(source)
    path = pathlib.Path(source)
    if is_folder(path):
        tables = sorted(path.glob("*.csv")) if names else []
        return _rows_of_files(tables, str(path), names) if tables else _directory_rows(path, split, config)
    if path.suffix.lower() in SUFFIXES or exists(path):
        if not is_regular(path):
            raise InputError(f"{source}: no such file; expected JSONL, JSON, CSV or Parquet")
        return _rows_of_split(_rows_of_files([path], source, names), split, source)
    return _named(hub_rows(source, split, config, **({"reading": reading} if reading else {})), source)


def _rows_of_split(rows: Iterator[Row], split: str, source: str) -> Iterator[Row]:
    """Yield the rows that a column ``split`` gives to a split, and all of a file without one."""
    part = split.rpartition("_")[2]
    names = {split, *_WORDS.get(part, ()), *(() if part == "train" else _WORDS["test"])}
    others: dict[str, None] = {}
    found = False
    for row in rows:
        value = row.values.get(SPLIT) if isinstance(row.values, dict) else None
        if not isinstance(value, str) or value.strip().lower() in names:
            found = True
            yield row
        elif len(others) < _SHOWN:
            others[value[:_LONGEST]] = None
    if others and not found:
        raise InputError(f"{source}: no rows of split {split!r}; its column {SPLIT!r} has {', '.join(others)}")


def keeps_apart(source: str, train: str, test: str, config: str | None = None) -> bool:
    """Return whether a place has other rows for training than for the test.

    Args:
      source: see ``open_rows``.
      train, test: the two splits.
      config: see ``open_rows``.

    Raises:
      InputError: if the place cannot be read.
    """
    path = pathlib.Path(expand_text(source))
    if is_regular(path):
        first = next(_rows_of_files([path], str(path)), None)
        return first is not None and isinstance(first.values, dict) and isinstance(first.values.get(SPLIT), str)
    if not is_folder(path):
        return train != test
    root = path / config if config and (path / config).is_dir() else path
    if any((root / name).is_file() for name in _SAVED):
        return (root / _SAVED[0]).is_file()
    files = sorted(root.rglob("*.parquet"))
    return bool(files) and _files_of_split(root, files, train) != _files_of_split(root, files, test)


def _named(rows, source: str, cells: bool = False) -> Iterator[Row]:
    for where, values in rows:
        yield Row(f"{source}: {where}", values, cells)


def _rows_of_files(paths: list[pathlib.Path], source: str, names: Sequence[str] = ()) -> Iterator[Row]:
    for path in paths:
        name = source if path == pathlib.Path(source) else str(path)
        yield from _named(file_rows(path, names=names), name, cells=path.suffix.lower() in TABLES)


def _directory_rows(folder: pathlib.Path, split: str, config: str | None) -> Iterator[Row]:
    root = folder / config if config and (folder / config).is_dir() else folder
    if any((root / name).is_file() for name in _SAVED):
        return _saved_rows(root, split)
    files = sorted(root.rglob("*.parquet"))
    if not files:
        raise InputError(
            f"{root}: has no Parquet files and was not written by datasets.save_to_disk; "
            f"name a {', '.join(SUFFIXES)} file inside it"
        )
    return _rows_of_files(_files_of_split(root, files, split), str(folder))


def _files_of_split(root: pathlib.Path, files: list[pathlib.Path], split: str) -> list[pathlib.Path]:
    """Return the files named after a split, or all files if no name mentions a split."""
    pattern = re.compile(rf"{re.escape(split)}([-_.]\d.*)?")
    names = {path: (path.stem, *path.relative_to(root).parent.parts) for path in files}
    chosen = [path for path in files if any(pattern.fullmatch(name) for name in names[path])]
    others = sorted({m[1] for path in files for name in names[path] if (m := _SPLIT_WORD.search(name))})
    if not chosen and others:
        raise InputError(f"{root}: no Parquet files for split {split!r}; found files for {', '.join(others)}")
    return chosen or files


def _saved_rows(folder: pathlib.Path, split: str) -> Iterator[Row]:
    import datasets

    try:
        saved = datasets.load_from_disk(str(folder))
    except Exception as error:
        reason = reason_of(error)
        raise InputError(f"{folder}: cannot be read as a data set ({reason})") from error
    if isinstance(saved, datasets.DatasetDict):
        if split not in saved:
            raise InputError(f"{folder}: no split {split!r}; found {', '.join(map(str, saved))}")
        saved = saved[split]
    return _named(((f"row {number}", dict(row)) for number, row in enumerate(saved, 1)), str(folder))
