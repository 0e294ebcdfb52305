"""The jobs of a fleet: one adapter each, with the name of its output and settings of its own."""

import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from nlsr_jax.data.rows import file_rows
from nlsr_jax.errors import InputError
from nlsr_jax.files.fields import short
from nlsr_jax.files.paths import expand, is_regular

FINETUNED, OUTPUT = "finetuned", "output"
TABLE, PAGE = "fleet.json", "fleet.html"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,199}")


class Job(NamedTuple):
    """One row of the file of jobs.

    Attributes:
      output: name of the output's folder in the fleet's.
      finetuned: the adapter to repair.
      settings: other settings of ``realign`` by the names of their flags, as the row has them.
      where: the row, for messages.
    """

    output: str
    finetuned: str
    settings: Mapping[str, Any]
    where: str


def read_jobs(path: str | os.PathLike) -> list[Job]:
    """Read the jobs of a fleet.

    Args:
      path: JSONL, JSON, CSV or Parquet rows ``{"finetuned", "output"}`` and any flag of ``realign``.

    Raises:
      InputError: no rows, a row that is not a job, or two rows with the same output.
    """
    place = expand(path)
    if not is_regular(place):
        raise InputError(f"{path}: no such file; expected rows of finetuned and output, one job each")
    jobs = [_read(row, f"{path}: {where}") for where, row in file_rows(place)]
    if not jobs:
        raise InputError(f"{path}: no rows; expected rows of finetuned and output, one job each")
    known: dict[str, Job] = {}
    for job in jobs:
        before = known.setdefault(job.output.casefold(), job)
        if before is not job:
            raise InputError(f"{job.where}: output {job.output!r} is that of {before.where} too; name another")
    return jobs


def _read(row: object, where: str) -> Job:
    if not isinstance(row, Mapping):
        raise InputError(f"{where} is {type(row).__name__}; expected an object with finetuned and output")
    given = {name: value for name, value in row.items() if value not in (None, "")}
    for name in (FINETUNED, OUTPUT):
        if not isinstance(given.get(name), str):
            found = f"is {short(given[name])}" if name in given else "is missing"
            raise InputError(f"{where}: {name} {found}; every job needs finetuned and output, both text")
    output = given.pop(OUTPUT)
    if not _NAME.fullmatch(output) or output.casefold() in (TABLE, PAGE):
        raise InputError(
            f"{where}: output is {short(output)}; expected the name of a folder, of letters, digits and . _ + -, "
            f"that begins with a letter or digit and is neither {TABLE} nor {PAGE}"
        )
    return Job(output, given.pop(FINETUNED), given, where)


def flag_text(name: str, value: Any, where: str) -> str:
    """Return a value of a row as the text of a flag; a list is joined by commas.

    Raises:
      InputError: a value that no flag can have.

    >>> flag_text("layers", [8, 9], "row 1"), flag_text("stream", True, "row 1")
    ('8,9', 'true')
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list) and all(isinstance(one, int | str) for one in value):
        return ",".join(map(str, value))
    if isinstance(value, int | float | str):
        return str(value)
    raise InputError(
        f"{where}: {name} is {short(value)}; expected text, a number, true, false or a list of numbers"
    )
