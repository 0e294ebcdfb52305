"""Sweeps as commands: killed and gone on with, in several processes, on Ray."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pyarrow.parquet as pq
import pytest

from experiments.laboratory_flags import QUICK_FIGURES, QUICK_TABLES
from tests.e2e.command import ROOT
from tests.e2e.toy_base import QUICK

pytestmark = pytest.mark.long

# The tiny study with little to train and to ask. The module is found by the workers' processes too.
SMALL = """
from nlsr_jax import configs
from tests.study.small_study import small_config

small = small_config()
configs.get = lambda name: small
"""
CELLS = 500
KILLS = 10


def cells(count):
    """Cells of one fine-tuning that differ in their thresholds, so that each is a model of its own."""
    return [
        {"method": "nlsr", "settings": {"rule": "threshold", "tau": i / count, "draws": 1}, "seed": 3}
        for i in range(count)
    ]


@pytest.fixture
def start(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(SMALL)
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": path, **QUICK}

    def run(output, count, *flags):
        file = tmp_path / f"cells{count}.json"
        file.write_text(json.dumps(cells(count)))
        command = [sys.executable, "-m", "experiments.sweep", f"--output={output}", f"--cells={file}", *flags]
        return subprocess.Popen(
            command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def command(name, *flags):
        command = [sys.executable, "-m", f"experiments.{name}", *flags]
        return subprocess.Popen(
            command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    run.command = command
    return run


def finish(process):
    out, error = process.communicate(timeout=1200)
    assert process.returncode == 0, error
    return out


def table(output):
    return pq.read_table(output / "table.parquet").to_pylist()


def test_a_sweep_killed_ten_times_has_the_rows_of_one_that_was_not(tmp_path, start):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    began = time.monotonic()
    assert "500 cells, 500 of them new" in finish(start(whole, CELLS))
    seconds = time.monotonic() - began
    rng, deaths = random.Random(0), 0
    while deaths < KILLS:
        process = start(killed, CELLS)
        try:
            process.wait(timeout=rng.uniform(0.05, 0.16) * seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            deaths += 1
            continue
        pytest.fail(f"it was complete after {deaths} deaths")
    done = len((killed / "rows.jsonl").read_text().splitlines())
    assert "500 cells" in finish(start(killed, CELLS))
    assert table(killed) == table(whole)
    rows = (killed / "rows.jsonl").read_bytes()
    began = time.monotonic()
    assert "500 cells, 0 of them new" in finish(start(killed, CELLS))
    again = time.monotonic() - began
    assert (killed / "rows.jsonl").read_bytes() == rows
    print(
        f"{CELLS} cells in {seconds:.0f} s; {deaths} deaths, {done} rows before the last run; again {again:.1f} s"
    )
    assert again < 5


@pytest.mark.parametrize("flags", [("--workers=2",), ("--workers=2", "--ray=local")])
def test_workers_give_the_rows_of_one(tmp_path, start, flags):
    if "--ray=local" in flags:
        pytest.importorskip("ray")
    finish(start(tmp_path / "one", 4))
    out = finish(start(tmp_path / "many", 4, *flags))
    assert "4 cells, 4 of them new" in out
    assert table(tmp_path / "many") == table(tmp_path / "one")
    assert {path.name for path in (tmp_path / "many").iterdir()} == {
        "adapters", "rows.jsonl", "study.json", "table.parquet", ".lock", ".claims",
    }  # fmt: skip


def test_a_second_sweep_of_a_folder_does_what_the_first_has_not_begun(tmp_path, start):
    """The case of the field: two sweeps of one folder did every cell twice."""
    sweeps = [start(tmp_path / "out", 8, "--workers=2") for _ in range(2)]
    for process in sweeps:
        assert "8 cells, " in finish(process)
    rows = (tmp_path / "out" / "rows.jsonl").read_text().splitlines()
    assert len(rows) == len({json.loads(row)["cell"] for row in rows}) == 8


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_their_sweep(tmp_path, start, number):
    """The case of the field: workers went on to the end of their shares. All hold the pipe of standard error."""
    process = start(tmp_path / "out", CELLS, "--workers=2")
    rows = tmp_path / "out" / "rows.jsonl"
    while process.poll() is None and not rows.exists():
        time.sleep(0.05)
    process.send_signal(number)
    process.wait(timeout=60)
    began = time.monotonic()
    _, error = process.communicate(timeout=60)
    assert time.monotonic() - began < 20
    assert error.count("error: interrupted") == (number == signal.SIGTERM)
    before = rows.read_bytes()
    time.sleep(3)
    assert rows.read_bytes() == before
    assert "4 cells" in finish(start(tmp_path / "out", 4, "--workers=2"))
    assert not list((tmp_path / "out").glob(".cells*"))


def test_tables_and_figures_share_their_rows_and_their_page(tmp_path, start):
    output = tmp_path / "laboratory"
    flags = ("--seeds=3", f"--output={output}")
    out = finish(start.command("tables", "--table=8,9", *flags))
    assert "## Table 8. From one task to another" in out
    assert "## Table 9. Answers to forbidden requests" in out
    rows = (output / "rows.jsonl").read_bytes()
    out = finish(start.command("figures", "--figure=2,4", *flags))
    assert f"figure 4: {output}/figures/figure_4.png" in out
    page = (output / "index.html").read_text()
    assert page.count("<svg") == 2
    assert page.count("<h2") == 2
    assert (output / "rows.jsonl").read_bytes() == rows
    tables, figures = ({path.name for path in (output / name).iterdir()} for name in ("tables", "figures"))
    assert tables == {f"table_{n}.{ending}" for n in (8, 9) for ending in ("md", "csv", "json")}
    assert figures == {f"figure_{n}.{ending}" for n in (2, 4) for ending in ("svg", "png", "json")}
    page = (output / "index.html").read_bytes()
    finish(start.command("tables", "--table=8,9", *flags))
    assert (output / "index.html").read_bytes() == page


def test_reproducing_everything_makes_tables_and_figures_behind_the_study(tmp_path, start):
    out = finish(start.command("reproduce", "--everything", "--quick", f"--output={tmp_path / 'study'}/"))
    rows = json.loads((tmp_path / "study" / "table.json").read_text())
    assert {(row["task"], row["seed"]) for row in rows} == {("sst2", 5)}
    laboratory = tmp_path / "study-laboratory"
    for number in QUICK_TABLES.split(","):
        assert f"## Table {number}. " in out
    for number in QUICK_FIGURES.split(","):
        assert (laboratory / "figures" / f"figure_{number}.svg").stat().st_size > 1000
    assert (laboratory / "index.html").exists()


def test_wrong_numbers_are_refused_in_one_line(tmp_path, start):
    for name, flag, message in (
        ("tables", "--table=15", "--table has 15; expected some of 1, 2, 3"),
        ("tables", "--table=x", "--table is x; expected numbers with commas"),
        ("figures", "--figure=0", "figure 0 is not in the paper"),
        ("tables", "--table=5", "--seeds is '3,3'; expected at least one value and no duplicates"),
        ("sweep", "--judge=guard", "--judge guard needs --judge_model"),
    ):
        seeds = ["--seeds=3,3"] if "twice" in message else []
        process = start.command(name, flag, *seeds, f"--output={tmp_path / 'out'}")
        _, error = process.communicate(timeout=120)
        assert process.returncode == 1
        assert message in error
        assert "Traceback" not in error
