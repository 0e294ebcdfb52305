"""Fleets that are killed at random moments: every output is absent or whole, and at the end all bytes are the same.

  python -m tests.reliability.fleets [--kills 20] [--jobs 16] [--seed 0] [--record]

The kills (SIGKILL) come at moments drawn from the whole duration of an undisturbed run. After each, every output in
the folder is, but for times, what the undisturbed run made. When all are there, the last run has written the same
table and page, but for the seconds, and nothing else is left.
"""

import argparse
import json
import pathlib
import random
import subprocess
import tempfile
import time

from nlsr_jax.fleet.folder import STATES
from nlsr_jax.fleet.jobs import PAGE, TABLE
from nlsr_jax.formats.peft import save_adapter
from tests.adapter_files import descend, flags, save_family
from tests.e2e.command import start
from tests.reliability.jobs import COMPILED, fingerprint, finish
from tests.reliability.results import Result, record


def make_jobs(folder: pathlib.Path, count: int) -> tuple:
    """Write adapters and their file of jobs; returns the arguments of ``nlsr fleet`` but for its output."""
    folder.mkdir(parents=True, exist_ok=True)
    aligned, rows = save_family(folder), []
    for number in range(count):
        save_adapter(descend(10 + number, aligned, 0.2), folder / f"customer-{number}")
        rows.append({"finetuned": str(folder / f"customer-{number}"), "output": f"out-{number}", "seed": number})
    (folder / "jobs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "jobs.jsonl", *flags(folder, "aligned"), "--method", "magnitude"


def begin(arguments: tuple, output: pathlib.Path, *more):
    """Start a fleet; its standard error is a pipe."""
    return start(["-m", "nlsr_jax", "fleet", *map(str, (*arguments, "--output", output, *more))], COMPILED)


def made(output: pathlib.Path) -> dict:
    """Return all that a fleet has made by name, but for times."""
    if not output.exists():
        return {}
    found: dict = {}
    for entry in output.iterdir():
        if entry.name == TABLE:
            table = json.loads(entry.read_text())
            found[TABLE] = [{**row, "seconds": 0} for row in table["jobs"]]
        elif entry.name == PAGE:
            found[PAGE] = entry.read_text()
        elif entry.name[0] != ".":
            found[entry.name] = fingerprint(entry)
    return found


def measure(arguments: tuple, output: pathlib.Path) -> tuple[dict, float]:
    """Run a fleet without disturbing it; returns what it made, and the seconds that it took."""
    began = time.monotonic()
    finish(begin(arguments, output))
    return made(output), time.monotonic() - began


def kill_often(
    arguments: tuple, kills: int, undisturbed: tuple[dict, float], folder: pathlib.Path, draw: random.Random
) -> int:
    """Kill a fleet so many times, and run each to its end; returns how many fleets there were.

    Args:
      arguments: from ``make_jobs``.
      kills: how many times.
      undisturbed: from ``measure``.
      folder: an empty one for the outputs.
      draw: decides the moments.
    """
    (whole, seconds), deaths, fleets = undisturbed, 0, 0
    while deaths < kills:
        fleets += 1
        output, moments = folder / f"fleet {fleets}", []
        while deaths + len(moments) < kills:
            moment = draw.uniform(0, seconds)
            process = begin(arguments, output)
            try:
                process.wait(timeout=moment)
                finish(process)
                break
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                moments.append(moment)
            found = made(output)
            wrong = sorted(name for name in found if found[name] != whole[name])
            assert not wrong, f"not whole: {wrong}"
        deaths += len(moments)
        finish(begin(arguments, output))
        assert made(output) == whole, "the last run has made something else"
        left = {entry.name for entry in output.iterdir()} - {*whole, STATES}
        assert not left, f"left behind: {left}"
        lives = ", ".join(f"{moment:.2f} s" for moment in moments)
        print(f"fleet {fleets}: {f'killed after {lives}' if lives else 'done before its kill'}", flush=True)
    return fleets


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--record", action="store_true")
    given = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        arguments = make_jobs(folder / "inputs", given.jobs)
        measure(arguments, folder / "warm")  # which compiles
        undisturbed = measure(arguments, folder / "whole")
        fleets = kill_often(arguments, given.kills, undisturbed, folder, random.Random(given.seed))
    seconds = time.monotonic() - began
    print(f"{given.kills} kills of {fleets} fleets in {seconds:.0f} s; every output was absent or whole")
    if given.record:
        what = "SIGKILL at random moments of a fleet: outputs absent or whole, the same bytes at the end"
        seed = f" --seed {given.seed}" if given.seed else ""
        command = f"python -m tests.reliability.fleets --kills {given.kills} --jobs {given.jobs}{seed}"
        record(Result(what, command, given.kills, given.kills, seconds))


if __name__ == "__main__":
    main()
