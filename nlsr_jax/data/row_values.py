"""Typed access to the values of a row: text, flags, integers and lists; every error names the column."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

_COLUMNS, _NAME = 12, 40
_FLAGS = {"True": True, "1": True, "False": False, "0": False}


class BadRow(ValueError):
    """A row cannot be used because a value does not fit its column.

    Attributes:
      reason: column and fault without the value, so that equal faults are counted together.
      detail: the value found, if it is short; empty for texts, which may be arbitrary.
    """

    def __init__(self, column: str, fault: str, detail: str = ""):
        super().__init__(column, fault, detail)
        self.reason = f"{column!r} {fault}" if column else fault
        self.detail = f" (found {detail})" if detail else ""


class UnwantedRow(Exception):
    """A valid row that this set skips; its only argument is the reason."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One row as read from its source.

    Attributes:
      where: file and line, for messages.
      values: the row's values by column; ``collect`` checks that this is a dictionary.
      cells: whether the values are CSV cells, which are always text.
    """

    where: str
    values: Any
    cells: bool = False

    def has(self, column: str) -> bool:
        """Return whether a column has a value."""
        return self.values.get(column) is not None

    def text(self, column: str, *, blank: bool = False) -> str:
        """Return a text unchanged; blank text is refused unless ``blank``."""
        value = self._value(column)
        if not isinstance(value, str):
            raise BadRow(column, "is not text", type(value).__name__)
        if not blank and not value.strip():
            raise BadRow(column, "is blank")
        return check_unicode(column, value)

    def flag(self, column: str) -> bool:
        """Return a boolean; CSV cells may be ``True``, ``False``, ``0`` or ``1``."""
        return as_flag(column, self._value(column), self.cells)

    def integer(self, column: str, choices: range) -> int:
        """Return an integer in ``choices``; CSV cells may hold digits."""
        value = self._value(column)
        if self.cells:
            value = digits(column, value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise BadRow(column, "is not an integer", short(value))
        if value not in choices:
            raise BadRow(column, f"is not in {choices.start} to {choices.stop - 1}", short(value))
        return value

    def texts(self, column: str) -> tuple[str, ...]:
        """Return a list of texts; a CSV cell must hold a JSON list."""
        return as_texts(column, self.nested(column, list))

    def nested(self, column: str, kind: type) -> Any:
        """Return a list or an object; a CSV cell must hold it as JSON."""
        value = self._value(column)
        if self.cells:
            try:
                value = json.loads(value)
            except (ValueError, RecursionError) as error:
                raise BadRow(column, "is not JSON") from error
        if not isinstance(value, kind):
            raise BadRow(column, f"is not {'a list' if kind is list else 'an object'}", type(value).__name__)
        return value

    def _value(self, column: str):
        if not self.has(column):
            there = self.values and column not in self.values
            raise BadRow(column, "is missing", describe_columns(self.values) if there else "")
        return self.values[column]


def describe_columns(row: Mapping) -> str:
    """List the columns of a row, for messages.

    >>> describe_columns({"Prompt": "a", "Response": "b"})
    'the columns Prompt, Response'
    """
    names = [str(name) if len(str(name)) <= _NAME else str(name)[: _NAME - 3] + "..." for name in row]
    shown = names[:_COLUMNS] + ["..."] * (len(names) > _COLUMNS)
    return f"the column{'s' * (len(names) > 1)} {', '.join(shown)}" if names else "no columns"


def as_flag(column: str, value: Any, cells: bool) -> bool:
    """Return a boolean; see ``Row.flag``."""
    if cells and isinstance(value, str) and value in _FLAGS:
        return _FLAGS[value]
    if not isinstance(value, bool):
        raise BadRow(column, "is not True, False, 0 or 1" if cells else "is not true or false", short(value))
    return value


def as_texts(column: str, values: list) -> tuple[str, ...]:
    """Return the texts of a list of choices, which must have at least two."""
    if len(values) < 2:
        raise BadRow(column, "holds fewer than 2 choices", str(len(values)))
    for value in values:
        if not isinstance(value, str) or not value.strip():
            raise BadRow(column, "holds something that is not text or is blank")
        check_unicode(column, value)
    return tuple(values)


def digits(column: str, value: Any) -> int:
    """Return the integer written by a string of digits."""
    unsigned = value.removeprefix("-") if isinstance(value, str) else ""
    # isdigit alone would accept superscripts and other scripts.
    if not (unsigned.isascii() and unsigned.isdigit() and len(unsigned) < 10):
        raise BadRow(column, "is not a string of digits", short(value))
    return int(value)


def check_unicode(column: str, value: str) -> str:
    """Return a text; refuse it if a tokenizer could not encode it (half of a surrogate pair)."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise BadRow(column, "is not valid Unicode") from error
    return value


def short(value: Any) -> str:
    """Describe a value briefly: the value itself if it is short, else its type."""
    found = repr(value)
    return found if len(found) <= 20 else type(value).__name__
