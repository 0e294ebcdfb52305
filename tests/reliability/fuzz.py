"""Nearly valid files for every parser that reads files of others, in their thousands.

  python -m tests.reliability.fuzz [--cases 100000] [--seed 0] [--record]
  python -m tests.reliability.fuzz --target NAME --seed 0 --case 17

A case is a valid file changed by a generator that the seed, the target and the number of the case decide. What
reads it must return a value or raise InputError with one line of bounded length, within 5 seconds of CPU time and
a growth of memory of 1 GB. A case that does not is kept with its traceback in .pytest_cache/fuzz, and the status
is 1. About three minutes on one free core for 100,000 cases.
"""

import argparse
import faulthandler
import os
import pathlib
import resource
import shutil
import sys
import tempfile
import time
import traceback
import warnings
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from nlsr_jax.errors import InputError
from tests.reliability.fuzz_cases import Case
from tests.reliability.fuzz_targets import TARGETS, Target

SECONDS, GROWTH, LONGEST = 5.0, 2**30, 2100
"""What a case may take: seconds of CPU time, bytes of memory, and characters of an error."""
KEPT = pathlib.Path(".pytest_cache") / "fuzz"
_HANGS = 120.0
"""After so many seconds a case is given up, and the program with it: it may be waiting outside of Python."""


class Outcome(NamedTuple):
    """What came of one case: ``"accepted"``, ``"refused"``, or what is wrong with it."""

    verdict: str
    seconds: float
    error: BaseException | None = None

    @property
    def held(self) -> bool:
        """Whether everything promised was true."""
        return self.verdict in ("accepted", "refused")


class Counts(NamedTuple):
    """What came of one target."""

    target: str
    cases: int
    accepted: int
    refused: int
    failed: int
    slowest: float


def examine(read: Callable[[], Any]) -> Outcome:
    """Call what reads a file and judge how it ends."""
    start, resident, peak = time.process_time(), _resident(), _peak()
    error: BaseException | None = None
    try:
        read()
        verdict = "accepted"
    except InputError as refusal:
        verdict, error = _judge(str(refusal)), refusal
    except Exception as other:
        verdict, error = f"raised {type(other).__name__}", other
    except BaseException as other:
        if isinstance(other, KeyboardInterrupt):
            raise
        verdict, error = f"raised {type(other).__name__}", other
    seconds = time.process_time() - start
    if seconds > SECONDS:
        verdict = f"took {seconds:.1f} s"
    if _peak() > peak and _peak() - resident > GROWTH:
        verdict = f"grew by {(_peak() - resident) / 2**20:.0f} MiB"
    return Outcome(verdict, seconds, error)


def _judge(message: str) -> str:
    if not message.strip() or not message.isprintable():
        return "refused without one printable line"
    return "refused" if len(message) <= LONGEST else f"refused in {len(message)} characters"


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _resident() -> int:
    try:
        return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:  # no such file but on Linux
        return _peak()


def generator(target: str, seed: int, case: int) -> np.random.Generator:
    """The generator of one case."""
    return np.random.default_rng([seed, zlib.crc32(target.encode()), case])


def shares(cases: int) -> dict[str, int]:
    """Cut the cases among the targets by their weights, at least five for each."""
    total = sum(target.weight for target in TARGETS.values())
    counts = {name: max(5, int(cases * target.weight / total)) for name, target in TARGETS.items()}
    counts["adapter_weights"] += cases - sum(counts.values())
    return counts


def run_target(target: Target, seed: int, numbers: range, kept: pathlib.Path | None = None) -> Counts:
    """Run some cases of a target; those that fail are kept in a folder."""
    ends = {"accepted": 0, "refused": 0, "failed": 0}
    slowest = 0.0
    with tempfile.TemporaryDirectory(dir=_memory()) as place, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = pathlib.Path(place) / "case"
        folder.mkdir()
        make = target.prepare(folder)
        for number in numbers:
            outcome = _run_case(target, make, seed, number, kept)
            ends[outcome.verdict if outcome.held else "failed"] += 1
            slowest = max(slowest, outcome.seconds)
            if not outcome.held:
                _keep(target, seed, number, outcome, folder, kept)
    return Counts(target.name, len(numbers), ends["accepted"], ends["refused"], ends["failed"], slowest)


def _run_case(target: Target, make: Case, seed: int, number: int, kept: pathlib.Path | None) -> Outcome:
    read = make(generator(target.name, seed, number))
    if kept is None:
        return examine(read)
    (kept / "running.txt").write_text(_again(target, seed, number))
    faulthandler.dump_traceback_later(_HANGS, exit=True)
    try:
        return examine(read)
    finally:
        faulthandler.cancel_dump_traceback_later()


def _again(target: Target, seed: int, number: int) -> str:
    return f"python -m tests.reliability.fuzz --target {target.name} --seed {seed} --case {number}\n"


def _keep(target: Target, seed: int, number: int, outcome: Outcome, folder: pathlib.Path, kept) -> None:
    told = f"{_again(target, seed, number)}{outcome.verdict}\n"
    told += "".join(traceback.format_exception(outcome.error)) if outcome.error else ""
    print(told, file=sys.stderr)
    if kept is not None:
        copy = kept / f"{target.name}-{seed}-{number}"
        shutil.copytree(folder, copy, dirs_exist_ok=True)
        (copy / "outcome.txt").write_text(told, errors="backslashreplace")


def _memory() -> str | None:
    """A folder in memory where there is one."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def main() -> int:
    """Run the cases that the arguments ask for; returns the exit status."""
    parser = argparse.ArgumentParser(description="Nearly valid files for every parser.")
    parser.add_argument("--cases", type=int, default=100_000, help="of all targets together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", choices=TARGETS, help="this one alone")
    parser.add_argument("--case", type=int, help="this case of the target alone")
    parser.add_argument("--record", action="store_true", help="put the result into docs/reliability.md")
    asked = parser.parse_args()
    KEPT.mkdir(parents=True, exist_ok=True)
    faulthandler.enable()
    start = time.monotonic()
    counts = {asked.target: asked.cases} if asked.target else shares(asked.cases)
    found = []
    for name, count in counts.items():
        numbers = range(count) if asked.case is None else range(asked.case, asked.case + 1)
        found.append(run_target(TARGETS[name], asked.seed, numbers, KEPT))
        one = found[-1]
        print(
            f"{name:18} {one.cases:6} cases, {one.accepted:6} accepted, {one.refused:6} refused, "
            f"{one.failed:3} failed, slowest {one.slowest:.3f} s",
            flush=True,
        )
    (KEPT / "running.txt").unlink()
    cases, failed = sum(one.cases for one in found), sum(one.failed for one in found)
    seconds = time.monotonic() - start
    print(f"{cases} cases, {failed} failed, {seconds:.0f} s, peak {_peak() / 2**20:.0f} MiB")
    if asked.record:
        from tests.reliability.results import Result, record

        what = (
            f"nearly valid files for {len(found)} parsers: a value or one line of refusal, within {SECONDS:g} s "
            f"and {GROWTH / 2**30:g} GiB"
        )
        record(Result(what, "make fuzz", cases, cases - failed, seconds))
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
