"""Commands that are killed at random moments: outputs are absent or whole, and a rerun makes what was to be made.

  python -m tests.reliability.crashes [--kills 200] [--seed 0] [--record]

The kills (SIGKILL) are spread over realign, identify, align, finetune and sweep. Every other one comes at a moment
drawn from the whole duration of an undisturbed run; the rest from the time after the run has begun to write, as its
neighbours on the disk show. Where nothing was there before, the output is absent or whole after each; with
--overwrite it is the old one or the new one. Beside it may lie ``OUTPUT.training``, which a rerun goes on from, and
hidden ``.OUTPUT.*.partial``, which a rerun removes. After a few kills of the same output it is run to its end: the
bytes are those of the undisturbed run, and nothing else is there.
"""

import argparse
import pathlib
import random
import re
import subprocess
import tempfile
import time
from typing import NamedTuple

from tests.own_outputs import save_training
from tests.reliability.jobs import Job, fingerprint, finish, make_jobs, refusal, whole_rows
from tests.reliability.results import Result, record

SHARES = {"realign": 50, "identify": 40, "align": 40, "finetune": 40, "sweep": 30}
"""Of 200 kills."""
CHAIN = 5
"""Kills of one output at most, before it is run to its end."""
_NEIGHBOURS = {"neighbour.txt": b"mine", "out.d/file": b"mine too"}
_GROWING = {"rows.jsonl", "study.json", ".study.json.partial", ".lock", "adapters", "table.parquet"}


class Undisturbed(NamedTuple):
    """A run that was left alone: what it made, and when it began to write and ended, in seconds."""

    made: dict[str, str]
    rows: frozenset
    wrote: float
    ended: float


def measure(job: Job, folder: pathlib.Path) -> Undisturbed:
    """Run a job without disturbing it."""
    _furnish(folder)
    before, began = _names(folder), time.monotonic()
    process = job.start(folder / "out")
    while process.poll() is None and _names(folder) == before:
        time.sleep(0.02)
    wrote = time.monotonic() - began
    finish(process)
    ended = time.monotonic() - began
    made = fingerprint(folder / "out")
    return Undisturbed(made, _rows(folder / "out"), wrote, ended)


def kill_often(
    job: Job, kills: int, whole: Undisturbed, folder: pathlib.Path, draw: random.Random, note=print
) -> int:
    """Kill a job so many times, and run every output to its end; returns how many outputs there were.

    Args:
      job: what is killed.
      kills: how many times.
      whole: what an undisturbed run makes.
      folder: an empty one for the outputs.
      draw: ``random.Random`` that decides the moments.
      note: called with a line about every output.
    """
    done, number = 0, 0
    while done < kills:
        number += 1
        parent = folder / f"{job.name} {number}"
        old = _furnish(parent, replaced=number % 2 == 0 and not (job.trains or job.grows))
        more, moments = (["--overwrite"] if old else []), []
        for _ in range(min(CHAIN, kills - done)):
            moment = _kill(job, parent, more, whole, draw, writing=(done + len(moments)) % 2 == 1)
            if moment is None:  # compiled before, it is faster than the first run was
                whole = whole._replace(wrote=0.8 * whole.wrote, ended=0.8 * whole.ended)
                break
            moments.append(moment)
            _check_state(job, parent, whole, old)
            if not job.grows and (parent / "out").exists() and fingerprint(parent / "out") == whole.made:
                break
        done += len(moments)
        _complete(job, parent, more, whole)
        lives = ", ".join(f"{at:.2f} s" for at in moments)
        note(f"{job.name}, output {number}: {'killed after ' + lives if lives else 'done before its kill'}")
    return number


def _kill(job: Job, parent, more, whole: Undisturbed, draw, *, writing: bool) -> float | None:
    """Start a job and kill it at a random moment; returns the seconds it lived, or None if it was faster."""
    before, began = _state(parent), time.monotonic()
    process = job.start(parent / "out", *more)
    delay = draw.uniform(0, whole.ended)
    if writing:
        while process.poll() is None and _state(parent) == before:
            time.sleep(0.01)
        delay = draw.uniform(0, whole.ended - whole.wrote)
    try:
        process.wait(timeout=delay)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return time.monotonic() - began
    finish(process)
    return None


def _check_state(job: Job, parent: pathlib.Path, whole: Undisturbed, old: dict[str, str] | None) -> None:
    """Check what a kill has left: the output, and everything beside it."""
    for name, content in _NEIGHBOURS.items():
        assert (parent / name).read_bytes() == content, f"{name} has changed"
    beside = {name for name in _names(parent) if not _is_partial(name, "out")}
    expected = {"neighbour.txt", "out.d", "out"} | ({"out.training"} if job.trains else set())
    assert beside <= expected, f"left behind: {beside - expected}"
    out = parent / "out"
    if not out.exists():
        assert old is None, "the old output is gone"
        return
    if job.grows:
        _check_growing(out, whole)
        return
    made = fingerprint(out)
    assert made in (whole.made, old), f"the output is neither whole nor the old one: {sorted(made)}"


def _check_growing(out: pathlib.Path, whole: Undisturbed) -> None:
    """Check a folder of rows: every row and every adapter in it is one of the undisturbed run."""
    names = {name for name in _names(out) if not _is_partial(name, "table.parquet")}
    assert names <= _GROWING, f"left behind: {names - _GROWING}"
    assert _rows(out) <= whole.rows, "a row is another one"
    made = {
        name: digest
        for name, digest in fingerprint(out).items()
        if name == "table.parquet" or (name.startswith("adapters/") and "/." not in name)
    }
    wrong = {name for name, digest in made.items() if whole.made.get(name) != digest}
    assert not wrong, f"half-written: {wrong}"


def _complete(job: Job, parent: pathlib.Path, more, whole: Undisturbed) -> None:
    """Run a job to its end and check that all is as if it had never been killed."""
    out = parent / "out"
    if out.exists() and not job.grows and not more:  # it was complete when it was killed
        line = refusal(job.start(out))
        assert "output exists; name another or give --overwrite" in line, line
    else:
        finish(job.start(out, *more))
    assert fingerprint(out) == whole.made, "the rerun has made something else"
    left = _names(parent) - {"neighbour.txt", "out.d", "out"}
    assert not left, f"left behind: {left}"
    _check_state(job, parent, whole, whole.made)


def _furnish(parent: pathlib.Path, replaced: bool = False) -> dict[str, str] | None:
    """Make a folder with neighbours of the output, and an output to be replaced; returns that one's digests."""
    for name, content in _NEIGHBOURS.items():
        (parent / name).parent.mkdir(parents=True, exist_ok=True)
        (parent / name).write_bytes(content)
    if not replaced:
        return None
    return fingerprint(save_training(parent / "out"))


def _names(folder: pathlib.Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def _state(parent: pathlib.Path) -> set[str]:
    """Names by which it shows that a run has begun to write: beside the output, of checkpoints, and rows."""
    found = _names(parent) | {path.name for path in parent.glob("out.training/checkpoints/*")}
    rows = parent / "out" / "rows.jsonl"
    return found | ({f"{rows.stat().st_size} bytes of rows"} if rows.exists() else set())


def _rows(out: pathlib.Path) -> frozenset:
    file = out / "rows.jsonl"
    return frozenset(whole_rows(file.read_bytes())) if file.exists() else frozenset()


def _is_partial(name: str, output: str) -> bool:
    return re.fullmatch(re.escape(f".{output}.") + r"[a-z0-9_]{8}\.partial", name) is not None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--record", action="store_true")
    given = parser.parse_args()
    draw, began, outputs = random.Random(given.seed), time.monotonic(), 0
    counts = [round(share * given.kills / sum(SHARES.values())) for share in SHARES.values()]
    counts[0] += given.kills - sum(counts)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        jobs = make_jobs(folder)
        for job, kills in zip(jobs.values(), counts, strict=True):
            whole = measure(job, folder / f"{job.name} undisturbed")
            print(f"{job.name}: wrote after {whole.wrote:.1f} s, ended after {whole.ended:.1f} s", flush=True)
            outputs += kill_often(job, kills, whole, folder, draw, lambda line: print(line, flush=True))
    seconds = time.monotonic() - began
    print(f"{given.kills} kills of {outputs} outputs in {seconds:.0f} s; every output was absent or whole")
    if given.record:
        what = (
            "SIGKILL at random moments of realign, identify, align, finetune and sweep: outputs absent or whole, "
            "neighbours untouched, reruns to the same bytes"
        )
        seed = f" --seed {given.seed}" if given.seed else ""
        command = f"python -m tests.reliability.crashes --kills {given.kills}{seed}"
        record(Result(what, command, given.kills, given.kills, seconds))


if __name__ == "__main__":
    main()
