"""Results of the long forms of these tests, kept in docs/reliability.json, and the table made from them.

  python -m tests.reliability.results

writes docs/reliability.md from docs/reliability.json. The programs beside this one put their results there with
``--record``; CI runs their short forms and checks that the table is what the results give.
"""

import json
import platform
from typing import NamedTuple

from nlsr_jax.files.output import write_text
from tests.e2e.command import ROOT

RESULTS = ROOT / "docs" / "reliability.json"
PAGE = ROOT / "docs" / "reliability.md"
HEAD = """\
# Reliability

Long tests try faults on the commands and the library. The table shows how many cases each test ran, and in how many
all promises of `SECURITY.md` held. To repeat a line, run its command from the root of a clone.

The programs of `tests.reliability` write this page with `--record`; `python -m tests.reliability.suites --record`
writes the lines of pytest. CI runs the same code with fewer cases, and those lines without their long tests.

| what | cases | held | seconds | command |
| --- | ---: | ---: | ---: | --- |
"""


class Result(NamedTuple):
    """One line of the table.

    Attributes:
      what: was tried and what had to hold, in words.
      command: that does it again.
      cases, held: how many were tried, and in how many it was as promised.
      seconds: that it took.
    """

    what: str
    command: str
    cases: int
    held: int
    seconds: float


def record(result: Result) -> None:
    """Put a result in place of the one of the same command, and write the page."""
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    entry = result._asdict() | {"seconds": round(result.seconds, 1), "python": platform.python_version()}
    kept[result.command] = entry
    kept = dict(sorted(kept.items()))
    write_text(RESULTS, json.dumps(kept, indent=2) + "\n")
    write_text(PAGE, page(kept))


def page(kept) -> str:
    """Return the page of results by command."""
    lines = [
        f"| {one['what']} | {one['cases']:,} | {one['held']:,} | {one['seconds']:,.0f} | `{one['command']}` |"
        for one in kept.values()
    ]
    return HEAD + "\n".join(lines) + "\n"


if __name__ == "__main__":
    write_text(PAGE, page(json.loads(RESULTS.read_text())))
