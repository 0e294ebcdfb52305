"""Training that is killed at random moments and started again ends with the bytes of a run that was not."""

import json
import random
import subprocess
import time

import pytest

from tests.e2e import command
from tests.e2e.command import contents
from tests.e2e.toy_base import QUICK, save_toy_base

DPO = ["--objective", "dpo", "--learning_rate", 1e-4, "--epochs", 1, "--batch_size", 8, "--save_every", 2]
KILLS = 20


def start(arguments, output, env):
    return command.start(["-m", "experiments.align", *map(str, arguments), "--output", str(output)], env)


def finish(process):
    _, text = process.communicate(timeout=300)
    assert process.returncode == 0, text


def timed(arguments, output, env):
    """Train without interruption; returns the seconds until its first step was logged, and all of them."""
    began = time.monotonic()
    process = start(arguments, output, env)
    metrics = output.with_name(output.name + ".training") / "metrics.jsonl"
    while process.poll() is None and not metrics.exists():
        time.sleep(0.02)
    first = time.monotonic() - began
    finish(process)
    return first, time.monotonic() - began


def last_checkpoint(parent):
    """The step of the last whole checkpoint; 0 where there is none."""
    folders = parent.glob("out.training/checkpoints/*")
    return max((int(folder.name) for folder in folders if folder.name.isdecimal()), default=0)


def killed(arguments, parent, env, delay, *, training):
    """Start training and kill it after ``delay`` seconds, counted from the start or from its next checkpoint.

    Returns:
      False if it was faster and is complete.
    """
    before, process = last_checkpoint(parent), start(arguments, parent / "out", env)
    while training and process.poll() is None and last_checkpoint(parent) == before:
        time.sleep(0.01)
    try:
        process.wait(timeout=delay)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        left = {path.name for path in parent.iterdir()}
        if left == {"out"}:
            return False  # it had published its output and was about to end
        assert left <= {"out.training"}, "something half-written lies beside the run folder"
        return True
    finish(process)
    return False


def check_same(output, whole):
    """Compare all files byte for byte, and what was logged but for the times."""
    first, second = contents(output), contents(whole)
    logged = [[json.loads(line) for line in files.pop("metrics.jsonl").splitlines()] for files in (first, second)]
    for line in (*logged[0], *logged[1]):
        assert line.pop("tokens_per_second") > 0
    assert logged[0] == logged[1]
    assert first == second
    assert {"adapter_model.safetensors", "adapter_config.json", "training.json"} == set(first)
    assert [path.name for path in output.parent.iterdir()] == [output.name], "something is left beside the output"


@pytest.mark.long
def test_killed_while_it_trains(tmp_path):
    base, whole, parent = save_toy_base(tmp_path / "base"), tmp_path / "whole", tmp_path / "killed"
    arguments = [*DPO, "--base", base, "--rows", 160]
    whole.mkdir()
    parent.mkdir()
    timed(arguments, whole / "out", QUICK)
    assert killed(arguments, parent, QUICK, 0.2, training=True)
    assert 0 < last_checkpoint(parent) < 20
    finish(start(arguments, parent / "out", QUICK))
    check_same(parent / "out", whole / "out")


@pytest.mark.long
def test_killed_at_twenty_random_moments(tmp_path):
    """A quarter die while they start, the others while they train; a run that completes first starts anew."""
    base, whole = save_toy_base(tmp_path / "base"), tmp_path / "whole"
    arguments = [*DPO, "--base", base, "--rows", 1760]
    whole.mkdir()
    first, complete = timed(arguments, whole / "out", {})
    print(f"\nuninterrupted: first step after {first:.1f} s, complete after {complete:.1f} s")
    draw, kills, runs, parent = random.Random(0), 0, 0, None
    while kills < KILLS or parent is not None:
        if parent is None:
            runs += 1
            parent = tmp_path / f"run {runs}"
            parent.mkdir()
        training, before = kills % 4 > 0, last_checkpoint(parent)
        delay = draw.uniform(0, 0.12 * (complete - first) if training else first)
        if kills < KILLS and killed(arguments, parent, {}, delay, training=training):
            kills += 1
            moment = f"{delay:.1f} s after its {'first checkpoint' if training else 'start'}"
            print(f"run {runs}, kill {kills}, {moment}: step {before} → {last_checkpoint(parent)}", flush=True)
            continue
        if not (parent / "out").exists():
            finish(start(arguments, parent / "out", {}))
        check_same(parent / "out", whole / "out")
        parent = None
    print(f"{kills} kills in {runs} runs; every output is that of the uninterrupted run, byte for byte")
