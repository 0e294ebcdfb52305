"""Run calls or whole processes alternately and measure wall-clock seconds and peak resident memory."""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from absl import flags

from nlsr_jax.commands import path_flags
from nlsr_jax.files.ownership import check_own, lines_with
from nlsr_jax.files.paths import expand

FLAGS = flags.FLAGS


def define_flags(rounds: int) -> None:
    """Define the flags of all benchmarks; ``rounds`` is the default number of rounds."""
    flags.DEFINE_integer("rounds", rounds, "Number of rounds of both sides.", lower_bound=1)
    define_results()


def define_results() -> None:
    """Define the flag of the results' folder."""
    path_flags.define_output("results", "benchmarks/results", "Folder of the results file.")


_LAUNCHER = """
import json, resource, subprocess, sys, time
start = time.perf_counter()
done = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
seconds = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
print(json.dumps([done.returncode, seconds, peak, done.stdout.decode(errors="replace")[-20000:]]))
"""


class Run(NamedTuple):
    """One finished command.

    Attributes:
      seconds: of the clock.
      peak: resident bytes of the largest of its processes.
      printed: the end of its output.
    """

    seconds: float
    peak: int
    printed: str = ""


def run_process(command: list[str], **env: str) -> Run:
    """Run a command to its end.

    A small process starts it, because the peak that Linux counts for a process starts with its parent's memory.

    Args:
      command: the command with its arguments.
      **env: environment variables to add to this process's.

    Raises:
      RuntimeError: if it failed; the message includes the end of its output.
    """
    launcher = [sys.executable, "-I", "-c", _LAUNCHER, *command]
    found = subprocess.run(launcher, stdout=subprocess.PIPE, check=True, env={**os.environ, **env})
    status, seconds, peak, printed = json.loads(found.stdout)
    if status:
        raise RuntimeError(f"{' '.join(command)} failed:\n{printed[-2000:]}")
    return Run(seconds, peak, printed)


def seconds(function: Callable[[], Any]) -> float:
    """Return the duration of a call, including the time until the returned arrays are ready."""
    import jax

    started = time.perf_counter()
    jax.block_until_ready(function())
    return time.perf_counter() - started


def in_turn(rounds: int, peer: Callable[[], Any], ours: Callable[[], Any]) -> dict:
    """Return the ratios of the seconds of two alternating calls; anything to compile must have run before."""
    pairs = [(seconds(peer), seconds(ours)) for _ in range(rounds)]
    return ratios([theirs for theirs, _ in pairs], [mine for _, mine in pairs])


def ratios(peer: list[float], ours: list[float]) -> dict:
    """Return the median, lowest and highest of the pairwise ratios peer / ours (> 1: ours is better)."""
    pairs = [p / o for p, o in zip(peer, ours, strict=True)]
    return {
        "ratio": round(statistics.median(pairs), 3),
        "low": round(min(pairs), 3),
        "high": round(max(pairs), 3),
        "ours": round(statistics.median(ours), 3),
        "peer": round(statistics.median(peer), 3),
    }


def append_result(
    name: str, result: dict, unit: str, folder: str | os.PathLike, file_name: str = "latest.jsonl"
) -> dict:
    """Append one JSON line to a file of a folder and return it.

    Raises:
      InputError: if the file exists and contains anything but results.
    """
    from nlsr_jax.formats.record import device, versions

    line = {
        "name": name,
        **result,
        "unit": unit,
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), **device()},
        "versions": versions(),
    }
    place = expand(folder) / file_name
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.exists():
        check_own(place, lines_with("name", "unit", "machine", "versions"))
    with place.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    return line
