"""Read rows of CSV files; every row must have exactly one cell per column."""

import csv
import itertools
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence

from nlsr_jax.errors import InputError

_OTHER = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}
_QUOTED = re.compile(r'"[^"]*"')
_SPACED = re.compile(r'\s+".*"\s*', re.DOTALL)
_SHOWN = 12


def csv_rows(
    path: pathlib.Path,
    lines: Iterable[str],
    end_row: Callable[[], None],
    note: Callable[[str], None],
    names: Sequence[str] = (),
) -> Iterator:
    """Yield ``("line N", {column: cell})`` of a CSV file.

    Commas separate cells. If the header has no comma, its semicolons, tabs or vertical bars do.

    Args:
      path: the file, for messages.
      lines: its lines, with line ends.
      end_row: called after every row.
      note: called with one line if the separator is not a comma, and at the first cell that keeps its quotes.
      names: columns of a file without a header. A first line of single words is a header all the same.

    Raises:
      InputError: if the text is not CSV, the header repeats a column, or a row has more or fewer cells than the
        header has columns; the message names the line and the column.
    """
    lines = iter(lines)
    first = next(lines, "")
    bare = bool(names) and " " in first.strip()
    delimiter = "," if bare else _delimiter(path, first, note)
    reader = csv.reader(itertools.chain([first], lines), strict=True, delimiter=delimiter)
    try:
        header, quoted = list(names) if bare else _header(path, next(reader, [])), False
        for cells in reader:
            end_row()
            if len(header) > 1 and not "".join(cells).strip() and len(cells) < 2:
                continue
            where = f"line {reader.line_num}"
            _check_cells(f"{path}: {where}", header, cells)
            if not quoted and (name := _kept_quotes(header, cells)):
                note(f"{path}: {where}: {name!r} begins with a space, so its quotes are kept as part of the text")
                quoted = True
            yield where, {name: cell for name, cell in zip(header, cells, strict=True) if name or cell.strip()}
    except csv.Error as error:
        raise InputError(f"{path}: line {reader.line_num} is not CSV ({error})") from error


def _delimiter(path, line: str, note: Callable[[str], None]) -> str:
    plain = _QUOTED.sub("", line)
    found = [mark for mark in _OTHER if mark in plain]
    if "," in plain or not found:
        return ","
    if len(found) > 1:
        raise InputError(
            f"{path}: line 1 has {' and '.join(_OTHER[mark] for mark in found)}; separate the columns with commas"
        )
    note(f"{path}: columns are separated by {_OTHER[found[0]]}")
    return found[0]


def _header(path, cells: list[str]) -> list[str]:
    """Return the column names, stripped of white space; each must be unique."""
    names = [cell.strip(" \t\r\n\u00a0\u200b\ufeff") for cell in cells]
    for column, name in enumerate(names):
        if name and name in names[:column]:
            raise InputError(
                f"{path}: line 1 has the column {name!r} twice (columns {names.index(name) + 1} and {column + 1}); "
                "rename or remove one"
            )
    return names


def _check_cells(where: str, header: list[str], cells: list[str]) -> None:
    counts = f"the row has {_count(len(cells), 'cell')}, the header {_count(len(header), 'column')}"
    shown = ", ".join(header[:_SHOWN]) + (", ..." if len(header) > _SHOWN else "")
    if len(cells) > len(header):
        raise InputError(
            f"{where}: column {len(header) + 1} has no name: {counts} ({shown}); put quotes around a text that "
            "contains the separator"
        )
    if len(cells) < len(header):
        raise InputError(f"{where}: {header[len(cells)]!r} is missing: {counts} ({shown})")
    for column, (name, cell) in enumerate(zip(header, cells, strict=True), 1):
        # pandas writes the index as a first column without a name.
        if not name and cell.strip() and column > 1:
            raise InputError(f"{where}: column {column} has text but no name in the header; name or remove it")


def _kept_quotes(header: list[str], cells: list[str]) -> str:
    """Return the column whose quotes are kept because of a space before them; empty if there is none."""
    found = (name for name, cell in zip(header, cells, strict=True) if name and _SPACED.fullmatch(cell))
    return next(found, "")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
