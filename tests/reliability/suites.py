"""The tests whose short form is the long one, counted into the table of results.

  python -m tests.reliability.suites [--record]

They are run by pytest as in CI, with the long ones; a test that was skipped does not count.
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile
import time
from xml.etree import ElementTree

from tests.e2e.command import ROOT
from tests.reliability.results import Result, record

SUITES = {
    "files that lie about themselves, hostile configs, indexes, links, rows, expressions and markup: refused in "
    "one line, in bounded time and memory, or shown as text": "tests/reliability/test_hostile*.py",
    "a full disk, a read-only one, permission lost on the way, two runs into one output: a clear line, the first "
    "one wins, nothing half-written": "tests/reliability/test_faults.py",
    "outputs, records and inputs that were changed, moved, rewritten or taken away, against the record": (
        "tests/pipeline/test_verification.py"
    ),
    "no pickle, no code of others, no network unless a hub id is given; the lock file holds what is required": (
        "tests/test_supply.py"
    ),
}
"""What the tests of some files show, and their pattern."""


def count(pattern: str) -> tuple[int, int]:
    """Run the tests of the files of a pattern; returns how many were run and how many passed."""
    files = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob(pattern))
    with tempfile.TemporaryDirectory() as folder:
        report = pathlib.Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-m", "", "-p", "no:cacheprovider", f"--junitxml={report}"]
        command += files
        found = subprocess.run(command, cwd=ROOT, check=False)
        if found.returncode not in (0, 1) or not report.is_file():
            raise SystemExit(f"pytest could not run {pattern}: it ended with {found.returncode}")
        suite = next(iter(ElementTree.parse(report).getroot()))
    tests, skipped, failed = (int(suite.get(name, 0)) for name in ("tests", "skipped", "failures"))
    failed += int(suite.get("errors", 0))
    return tests - skipped, tests - skipped - failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--record", action="store_true")
    given = parser.parse_args()
    broken = []
    for what, pattern in SUITES.items():
        began = time.monotonic()
        tried, held = count(pattern)
        if held < tried or not tried:
            broken.append(pattern)
        elif given.record:
            record(Result(what, f"python -m pytest {pattern} -m ''", tried, held, time.monotonic() - began))
    if broken:
        raise SystemExit(f"it did not hold: {', '.join(broken)}")


if __name__ == "__main__":
    main()
