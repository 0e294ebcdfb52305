"""Convert rows to examples: take valid rows in file order, count and report the others."""

import collections
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from nlsr_jax.data.row_values import BadRow, Row, UnwantedRow
from nlsr_jax.errors import InputError

NAMED = 5
"""Maximum number of bad rows named in a report."""


class Loaded(NamedTuple):
    """The rows taken from a source, and what was skipped.

    Attributes:
      rows: the examples, in file order.
      counts: ``{"rows": read, "used": taken, "skipped": {reason: how many}}``.
      named: the first bad rows: file, row, column and reason.
    """

    rows: list
    counts: dict[str, Any]
    named: tuple[str, ...] = ()


def collect(
    rows: Iterable[Row],
    convert: Callable[[Row], Any],
    source: str,
    *,
    count: int | None = None,
    strict: bool = False,
    missing: Callable[[], str] = str,
) -> Loaded:
    """Convert rows in file order until ``count`` are taken.

    Args:
      rows: the rows to convert.
      convert: turns a row into an example, or raises ``BadRow`` or ``UnwantedRow``.
      source: name of the source in messages.
      count: number of rows to take; None for all.
      strict: raise at the first bad row. Unwanted rows are valid and never an error.
      missing: describes what is missing if there are too few rows, for a count with several parts.

    Returns:
      A ``Loaded``. Rows after the last one taken are neither read nor counted.

    Raises:
      InputError: if there are fewer rows than requested, no rows at all, or a bad row when ``strict``.
    """
    if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
        raise InputError(f"{source}: count is {count!r}; expected a positive integer, or None for all rows")
    used: list = []
    named: list[str] = []
    skipped: collections.Counter[str] = collections.Counter()
    for row in rows:
        try:
            if not isinstance(row.values, dict):
                raise BadRow("", f"is {type(row.values).__name__}; expected an object")
            used.append(convert(row))
        except UnwantedRow as unwanted:
            skipped[str(unwanted)] += 1
        except BadRow as bad:
            message = f"{row.where}: {bad.reason}{bad.detail}"
            if strict:
                raise InputError(f"{message}; fix the row, or load without strict to skip such rows") from bad
            skipped[bad.reason] += 1
            named.append(message)
        if len(used) == count:
            break
    counts = {"rows": len(used) + skipped.total(), "used": len(used), "skipped": dict(skipped)}
    loaded = Loaded(used, counts, tuple(named[:NAMED]))
    if not used or (count is not None and len(used) < count):
        raise InputError(_shortage(loaded, source, count, missing()))
    return loaded


def _shortage(loaded: Loaded, source: str, count: int | None, missing: str) -> str:
    counts = loaded.counts
    skipped = ", ".join(f"{number} {reason}" for reason, number in counts["skipped"].items())
    first = f"; the first bad one is {loaded.named[0]}" if loaded.named else ""
    asked = f"{count} rows requested, but only " if count else ""
    advice = f"request at most {counts['used']}" if counts["used"] else "is this the right data set?"
    reasons = f" (skipped: {skipped}{first})" if skipped else ""
    return f"{source}: {asked}{counts['used']} of {counts['rows']} rows are usable{reasons}; {missing or advice}"
