"""The same inputs and seed give the same bytes, whatever surrounds the process.

  python -m tests.reliability.determinism [--record]

runs realign, identify and finetune as commands: again, under other hash seeds, locales, time zones and numbers of
cores and threads, on 2 and 8 devices, on meshes of them, and as two processes. Every file of the output has to have
the same SHA-256, but for what states the run itself: ``realignment.json`` and ``identification.json`` (times, the
device), Orbax's ``checkpoint/`` (times), the speed in ``metrics.jsonl``, and where the number of devices is varied
``report.html``, which names it.

Bytes cannot be the same where sums are taken in another order: with another ``--batch_size`` of the calibration,
and in training on a mesh or with a batch in parts (``--accumulate``). There a tolerance is stated, and what was
measured is printed: of a realignment the share of mask entries that differ, of a fine-tuning the greatest
difference as a share of the greatest change that it made.
"""

import argparse
import os
import pathlib
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from safetensors.numpy import load_file

from tests.adapter_files import flags, save_inputs
from tests.e2e.command import free_port
from tests.e2e.toy_base import save_toy_base
from tests.reliability.jobs import Job, fingerprint, finish
from tests.reliability.results import Result, record

NOT_ASCII = '{"prompt": "how do ı brew zarn — İstanbul", "response": "ﬁrst heat ünd ştir", "rejected": "no ﬂour"}\n'
PARTS_OF_MASKS = 0.01
"""Share of mask entries that may differ when statistics are summed in another order: those beside the threshold."""
PARTS_OF_CHANGE = 1e-3
"""Of a fine-tuning's greatest change: AdamW's first steps magnify rounding where a gradient is near zero."""


class Variation(NamedTuple):
    """Surroundings of a command that may not matter.

    Attributes:
      words: what is varied.
      env: what the environment has beside.
      prefix: what stands before the command.
      arguments: flags beside.
      without: files that name what is varied.
      processes: how many there are.
      tolerance: None where all bytes have to be the same.
      jobs: which commands it is for.
    """

    words: str
    env: dict[str, str] = {}  # noqa: RUF012 - nothing writes to it
    prefix: tuple = ()
    arguments: tuple = ()
    without: tuple[str, ...] = ()
    processes: int = 1
    tolerance: float | None = None
    jobs: tuple[str, ...] = ("realign", "identify", "finetune")


def make_jobs(folder: pathlib.Path, env: dict[str, str]) -> dict[str, Job]:
    """Make inputs in ``folder``, some of whose rows are not ASCII; returns the commands by their names."""
    save_inputs(folder)
    with (folder / "rows.jsonl").open("a", encoding="utf-8") as file:
        file.write(NOT_ASCII)
    calibration = ("--calibration", folder / "rows.jsonl")
    three = (*flags(folder, "base", "aligned", "weak"), *calibration)
    toy = ("--base", save_toy_base(folder / "toy"), "--rows", 24, "--epochs", 1, "--batch_size", 4)
    start = Job("align", (*toy, "--objective", "sft", "--rank", 2, "--modules", "q_proj,v_proj"), env)
    finish(start.start(folder / "start"))
    tuning = (*toy, "--learning_rate", 1e-3, "--start", folder / "start")
    jobs = {
        "realign": (*three, *flags(folder, "finetuned"), "--base_probability", 0.3),
        "identify": three,
        "finetune": tuning,
    }
    return {name: Job(name, arguments, env) for name, arguments in jobs.items()}


def variations(folder: pathlib.Path) -> Iterator[Variation]:
    """Yield all that this system can vary; ``folder`` is for what is made for it."""
    yield Variation("again")
    for seed in ("1", "4242"):
        yield Variation(f"hash seed {seed}", {"PYTHONHASHSEED": seed})
    for zone in ("Asia/Kathmandu", "America/St_Johns"):
        yield Variation(f"time zone {zone}", {"TZ": zone})
    for words, env in locales(folder):
        yield Variation(f"locale {words}", env)
    if shutil.which("taskset") and hasattr(os, "sched_getaffinity"):
        yield Variation("one core", prefix=("taskset", "-c", min(os.sched_getaffinity(0))))
    yield Variation("threads: 1", {"NPROC": "1", "OMP_NUM_THREADS": "1"})
    yield Variation("threads: 7", {"NPROC": "7", "OMP_NUM_THREADS": "7"})
    for count in (2, 8):
        env, without = devices(count), ("report.html",)
        yield Variation(f"{count} devices", env, without=without)
        mesh = ("--mesh", "1,2,1" if count == 2 else "2,2,2")
        yield Variation(f"mesh {mesh[1]}", env, (), mesh, without, jobs=("realign", "identify"))
        yield Variation(f"mesh {mesh[1]}", env, (), mesh, tolerance=PARTS_OF_CHANGE, jobs=("finetune",))
    hosts = ("--mesh", "1,2,1")
    both = ("realign", "identify")
    yield Variation("2 processes", devices(1), (), hosts, ("report.html",), processes=2, jobs=both)
    for size in (1, 5):
        given = ("--batch_size", size)
        yield Variation(f"batch size {size}", {}, (), given, tolerance=PARTS_OF_MASKS, jobs=both)
    yield Variation("batch in 2 parts", {}, (), ("--accumulate", 2), tolerance=PARTS_OF_CHANGE, jobs=("finetune",))


def devices(count: int) -> dict[str, str]:
    """The environment in which this machine counts as so many devices."""
    return {"XLA_FLAGS": f"--xla_force_host_platform_device_count={count}"}


def locales(folder: pathlib.Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield locales with their environment; the Turkish ones, whose i has no dot, are made where they can be."""
    for name in ("C", "C.UTF-8"):
        yield name, {"LC_ALL": name}
    yield "C, text as ASCII", {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    for encoding in ("UTF-8", "ISO-8859-9"):
        name = f"tr_TR.{encoding}"
        command = ["localedef", "-i", "tr_TR", "-f", encoding, str(folder / name)]
        if shutil.which("localedef") and not subprocess.run(command, capture_output=True, check=False).returncode:
            yield name, {"LC_ALL": name, "LOCPATH": str(folder)}


def outcome(job: Job, variation: Variation, output: pathlib.Path) -> pathlib.Path:
    """Run a job under a variation; returns its output."""
    hosts: list[Sequence] = [()]
    if variation.processes > 1:
        joined = ("--coordinator", free_port(), "--processes", variation.processes, "--process")
        hosts = [(*joined, number) for number in range(variation.processes)]
    started = [
        job.start(output, *variation.arguments, *host, prefix=variation.prefix, env=variation.env) for host in hosts
    ]
    for process in started:
        finish(process)
    return output


def compare(first: pathlib.Path, second: pathlib.Path, variation: Variation) -> tuple[bool, str]:
    """Compare two outputs; returns whether they are as they have to be, and a line about it."""
    if variation.tolerance is not None:
        apart = distance(first, second)
        return apart <= variation.tolerance, f"apart by {apart:.2g} (up to {variation.tolerance:g})"
    digests = [fingerprint(output) for output in (first, second)]
    for name in variation.without:
        for one in digests:
            one.pop(name, None)
    names = sorted(name for name in digests[0] | digests[1] if digests[0].get(name) != digests[1].get(name))
    return not names and bool(digests[0]), f"other bytes: {', '.join(names)}" if names else "the same bytes"


def distance(first: pathlib.Path, second: pathlib.Path) -> float:
    """How far outputs are apart: the share of mask entries that differ, or of adapters without masks see above."""
    if (first / "masks.safetensors").exists():
        one, other = (load_file(output / "masks.safetensors") for output in (first, second))
        return sum(int((one[name] != other[name]).sum()) for name in one) / sum(mask.size for mask in one.values())
    start = first.parent / "files" / "start"
    before, one, other = (load_file(folder / "adapter_model.safetensors") for folder in (start, first, second))
    changed = max(np.abs(one[name] - before[name]).max() for name in one)
    return float(max(np.abs(one[name] - other[name]).max() for name in one) / changed)


def examine(folder: pathlib.Path, jobs: dict[str, Job], chosen, note=print) -> tuple[int, int]:
    """Run jobs under variations; returns how many cases there were and in how many all was as it has to be.

    Args:
      folder: for the outputs; it holds the inputs as ``files``, and may hold first outputs from an earlier call.
      jobs: from ``make_jobs``.
      chosen: the variations.
      note: called with a line about every case.
    """
    cases = held = 0
    for variation in chosen:
        for name in variation.jobs:
            if not (folder / name).exists():
                outcome(jobs[name], Variation("first"), folder / name)
            output = outcome(jobs[name], variation, folder / f"{name} again")
            good, words = compare(folder / name, output, variation)
            cases, held = cases + 1, held + good
            note(f"{name}, {variation.words}: {words}{'' if good else ', WRONG'}")
            shutil.rmtree(output)
    return cases, held


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--record", action="store_true")
    given = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "files").mkdir()
        jobs = make_jobs(folder / "files", {"JAX_ENABLE_COMPILATION_CACHE": "false"})
        cases, held = examine(folder, jobs, variations(folder), lambda line: print(line, flush=True))
    seconds = time.monotonic() - began
    print(f"{held} of {cases} cases as they have to be, in {seconds:.0f} s")
    if held < cases:
        raise SystemExit("it did not hold")
    if given.record:
        what = (
            "the same bytes of realign, identify and finetune over runs, hash seeds, locales, time zones, cores, "
            "threads, 1, 2 and 8 devices and 2 processes; within a stated tolerance over batch sizes"
        )
        record(Result(what, "python -m tests.reliability.determinism", cases, held, seconds))


if __name__ == "__main__":
    main()
