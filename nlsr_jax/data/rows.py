"""Read rows of text from JSONL, JSON, CSV or Parquet files, or from a hub data set."""

import collections
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from nlsr_jax.data.csv_rows import csv_rows
from nlsr_jax.data.row_values import BadRow, check_unicode, describe_columns
from nlsr_jax.errors import InputError, reason_of
from nlsr_jax.files.json_files import RepeatedKey, read_json, without_duplicates
from nlsr_jax.files.limits import LIMITS
from nlsr_jax.files.paths import exists, expand_text, is_regular

TABLES = (".csv", ".tsv")
SUFFIXES = (".jsonl", ".json", *TABLES, ".parquet")
_PART = 16

Note = Callable[[str], None]
"""Called with one line that the user should read."""


def no_note(_: str) -> None:
    """Say nothing."""


def read_rows(source: str, columns: Sequence[str], split: str = "train") -> list[dict[str, str]]:
    """Read the given text columns of every row and check that each holds text.

    Args:
      source: a local ``.jsonl`` or ``.json`` (each may be JSON Lines or a list of objects), ``.csv`` or
        ``.parquet`` file, or the name of a hub data set.
      columns: the columns to read; others are ignored.
      split: the split of a hub data set.

    Returns:
      One ``{column: text}`` per row, in file order.

    Raises:
      InputError: if a column is missing, empty or not text; the message names the file, the row and the columns
        found.
    """
    rows, size = [], 0
    for where, row in source_rows(source, split):
        rows.append(_checked(row, columns, f"{source}: {where}"))
        size += sum(map(len, rows[-1].values()))
        check_size(source, size)
    if not rows:
        raise InputError(f"{source}: no rows; expected objects with {' and '.join(columns)}")
    return rows


def source_rows(source: str, split: str = "train", note: Note = no_note) -> Iterator[tuple[str, object]]:
    """Yield ``(where, row)`` of a file or a hub data set; see ``read_rows``.

    Raises:
      InputError: if the source cannot be read.
    """
    source = expand_text(source)
    path = pathlib.Path(source)
    if path.suffix.lower() not in SUFFIXES and not exists(path):
        return hub_rows(source, split)
    if not is_regular(path):
        raise InputError(f"{source}: no such file; expected JSONL, JSON, CSV or Parquet")
    return file_rows(path, note)


def check_size(source: str, characters: int) -> None:
    """Raise InputError if the texts of a source together exceed the size limit."""
    if characters > LIMITS.rows_characters:
        raise InputError(f"{source}: more than {LIMITS.rows_characters} characters of text; take fewer rows")


def _checked(row, columns, where):
    if not isinstance(row, dict):
        raise InputError(f"{where} is {type(row).__name__}; expected an object with {', '.join(columns)}")
    for column in columns:
        value = row.get(column)
        if not isinstance(value, str) or not value.strip():
            found = "is missing" if value is None else "is empty" if value in ("", []) else "is not text"
            found = "is blank" if isinstance(value, str) and value else found
            there = f"; found {describe_columns(row)}" if value is None else ""
            raise InputError(f"{where}: {column!r} {found}; every row needs {' and '.join(columns)}{there}")
        try:
            check_unicode(column, value)
        except BadRow as error:
            raise InputError(f"{where}: {error.reason}") from None
    return {column: row[column] for column in columns}


def file_rows(
    path: pathlib.Path, note: Note = no_note, *, names: Sequence[str] = ()
) -> Iterator[tuple[str, object]]:
    """Yield ``(where, row)`` of a local file, in file order, with rows unchanged.

    Args:
      path: a ``.jsonl``, ``.json``, ``.csv``, ``.tsv`` or ``.parquet`` file. The content decides whether JSON is
        lines or a list, not the suffix. Cells of a CSV file are text.
      note: called if a file differs from what its name says but can still be read.
      names: columns of a CSV file without a header.

    Raises:
      InputError: if the file is empty, damaged, of another type, or repeats a column name.
    """
    kind = path.suffix.lower()
    if kind not in SUFFIXES:
        raise InputError(f"{path}: unknown file type {path.suffix!r}; expected {', '.join(SUFFIXES)}")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty")
    try:
        if kind == ".parquet":
            yield from _parquet_rows(path)
        elif kind in TABLES:
            with path.open(encoding="utf-8-sig", newline="") as file:
                lines = _Lines(path, file)
                yield from csv_rows(path, lines, lines.end_row, note, names)
        else:
            yield from _json_rows(path) if _is_json_text(path) else _jsonl_rows(path)
    except UnicodeDecodeError as error:
        with path.open("rb") as raw:
            if raw.read(2) in (b"\xff\xfe", b"\xfe\xff"):
                raise InputError(f"{path}: is UTF-16; save it as UTF-8") from error
        raise InputError(f"{path}: not UTF-8 (byte {error.start} of the part being read)") from error


class _Lines:
    """Lines of a text file; the lines of one row are limited in total length."""

    def __init__(self, path, file):
        self._path, self._file = path, file
        self._left = LIMITS.row_characters
        self.number = 0

    def __iter__(self):
        return self

    def __next__(self) -> str:
        line = self._file.readline(self._left + 1)
        if not line:
            raise StopIteration
        self.number += 1
        self._left -= len(line)
        if self._left < 0:
            raise InputError(f"{self._path}: the row at line {self.number} is too long; {_longest()}")
        return line

    def end_row(self) -> None:
        """Reset the count of characters."""
        self._left = LIMITS.row_characters


def _longest() -> str:
    return f"expected at most {LIMITS.row_characters} characters (NLSR_MAX_ROW_CHARACTERS)"


def _jsonl_rows(path):
    with path.open(encoding="utf-8-sig") as file:
        lines = _Lines(path, file)
        for line in lines:
            lines.end_row()
            if not line.strip():
                continue
            where = f"line {lines.number}"
            try:
                row = json.loads(line, object_pairs_hook=without_duplicates)
            except RepeatedKey as error:
                raise InputError(
                    f"{path}: {where} repeats the key {str(error.args[0])[:80]!r}; remove one of them"
                ) from None
            except (ValueError, RecursionError) as error:
                if line.rstrip().endswith(","):
                    raise InputError(
                        f"{path}: {where} ends with a comma, which JSON Lines do not allow; remove the commas, or "
                        "put [ and ] around all rows"
                    ) from error
                raise InputError(f"{path}: {where} is not JSON ({error})") from error
            yield where, row


def _is_json_text(path) -> bool:
    """Return whether a file is one JSON text, such as a list of rows, rather than JSON Lines."""
    with path.open(encoding="utf-8-sig") as file:
        start = next((part.strip() for part in iter(lambda: file.read(4096), "") if part.strip()), "")
        if start[:1] == "[" or path.suffix.lower() == ".jsonl" or not start:
            return start[:1] == "["
        file.seek(0)
        first = next(filter(str.strip, _Lines(path, file))).strip().removeprefix("\ufeff")
        try:
            json.loads(first)
        except (ValueError, RecursionError):
            # An object that spans lines, unless the first line was meant to be one row and a comma.
            return not first.endswith("},")
        return False


def _json_rows(path):
    try:
        rows = read_json(path, "list of rows", allow_nan=True)
    except InputError as error:
        if "Extra data" not in str(error):
            raise
        raise InputError(
            f"{path}: has more than one JSON value; expected one list of objects, or JSON Lines with one object "
            "per line"
        ) from error
    if not isinstance(rows, list):
        raise InputError(
            f"{path}: contains {type(rows).__name__}; expected a list of objects, or JSON Lines with one object "
            f"per line{_inner(rows)}"
        )
    for number, row in enumerate(rows, 1):
        yield f"row {number}", row


def _inner(value) -> str:
    """Say where an object contains a list that may hold the rows."""
    names = [name for name, inner in value.items() if isinstance(inner, list)] if isinstance(value, dict) else []
    return f"; its {names[0]!r} is a list: save only that" if names else ""


def _parquet_rows(path):
    import pyarrow
    import pyarrow.parquet

    try:
        for number, row in enumerate(_parquet_parts(path), 1):
            yield f"row {number}", row
    except InputError:
        raise
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError, ImportError, MemoryError) as error:
        reason = reason_of(error)
        raise InputError(f"{path}: cannot be read as Parquet ({reason[:200]})") from error


def _parquet_parts(path) -> Iterator[dict]:
    """Yield rows in small slices: a file may store a long text once and repeat it in every row."""
    from pyarrow import compute, parquet, types

    with parquet.ParquetFile(path) as file:
        schema = file.schema_arrow
    twice = [name for name, count in collections.Counter(schema.names).items() if count > 1]
    if twice:
        raise InputError(f"{path}: has the column {twice[0]!r} twice; rename or remove one")
    texts = [field.name for field in schema if _is_text(types, field.type)]
    with parquet.ParquetFile(path, read_dictionary=texts) as file:
        for batch in file.iter_batches(batch_size=1024):
            for name, column in zip(batch.schema.names, batch.columns, strict=True):
                held = column.dictionary if types.is_dictionary(column.type) else column
                long = compute.max(compute.binary_length(held)).as_py() if _is_text(types, held.type) else None
                if long is not None and long > LIMITS.row_characters:
                    raise InputError(f"{path}: a text of {long} bytes in column {name!r}; {_longest()}")
            for start in range(0, batch.num_rows, _PART):
                yield from batch.slice(start, _PART).to_pylist()


def _is_text(types, kind) -> bool:
    return types.is_string(kind) or types.is_large_string(kind) or types.is_binary(kind)


def hub_rows(
    name: str, split: str, config: str | None = None, reading: Mapping[str, Any] | None = None
) -> Iterator[tuple[str, object]]:
    """Yield ``(where, row)`` of a hub data set.

    Args:
      name: ``ORG/NAME`` or ``ORG/NAME@REVISION``.
      split: of its rows.
      config: its configuration; None for the only one.
      reading: options of its reader of CSV files.

    Raises:
      InputError: if the data set cannot be loaded.
    """
    import datasets

    place, _, revision = name.partition("@")
    try:
        rows = datasets.load_dataset(place, config, split=split, revision=revision or None, **(reading or {}))
    except Exception as error:
        reason = reason_of(error)
        raise InputError(f"{name}: no such file, and cannot be loaded as a hub data set ({reason})") from error
    for number, row in enumerate(rows, 1):
        yield f"{split} row {number}", dict(row)
