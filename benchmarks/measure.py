"""Run whole processes in turn and measure wall seconds and peak resident memory."""

import json
import os
import pathlib
import platform
import statistics
import subprocess
import time
from typing import NamedTuple


class Run(NamedTuple):
    """One finished process: wall seconds and peak resident bytes."""

    seconds: float
    peak: int


def run_process(command: list[str]) -> Run:
    """Run a command to its end.

    Raises:
      RuntimeError: it failed; with the end of what it printed.
    """
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.stdout is not None
    with process.stdout:
        printed = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{printed.decode(errors='replace')[-2000:]}")
    return Run(seconds, usage.ru_maxrss * 1024)


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


def append_result(name: str, result: dict, unit: str, folder: pathlib.Path) -> dict:
    """Append one JSON line to ``folder/latest.jsonl`` and return it."""
    from nlsr_jax.formats.record import device, versions

    line = {
        "name": name,
        **result,
        "unit": unit,
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), **device()},
        "versions": versions(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "latest.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    return line
