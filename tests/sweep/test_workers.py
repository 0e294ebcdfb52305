"""Several processes that run the cells of one folder do each once."""

import json
import multiprocessing
import os
import signal
import time
from types import SimpleNamespace

import pytest

from nlsr_jax.files.claims import Claims
from nlsr_jax.sweep.cells import make_cell
from nlsr_jax.sweep.store import CellStore
from nlsr_jax.sweep.workers import run_cells

CELLS = [make_cell("nlsr", {"rule": "threshold", "tau": i / 8}) for i in range(8)]
SPAWN = multiprocessing.get_context("spawn")


def make_runner(path, seconds=0.0):
    """A runner whose rows say which process made them."""

    def run(cell):
        time.sleep(seconds)
        return {"cell": name(cell), "by": os.getpid()}

    def name(cell):
        return json.dumps(cell.settings)

    return SimpleNamespace(store=CellStore(path, {}), whole=lambda cell: cell, name=name, run=run)


def sweep(path, start, seconds):
    runner = make_runner(path, seconds)
    (path / f"ready {os.getpid()}").touch()
    start.wait(60)
    run_cells(runner, CELLS)


def hold(path, name, held):
    with Claims(path).claim(name):
        held.set()
        time.sleep(60)


@pytest.fixture
def holder(tmp_path):
    """Start a process that holds a name; it is killed in the end."""
    processes = []

    def begin(name):
        held = SPAWN.Event()
        processes.append(SPAWN.Process(target=hold, args=(tmp_path, name, held)))
        processes[-1].start()
        assert held.wait(60)
        return processes[-1]

    yield begin
    for process in processes:
        process.kill()
        process.join()


def test_two_sweeps_of_one_folder_do_every_cell_once(tmp_path):
    start = SPAWN.Event()
    sweeps = [SPAWN.Process(target=sweep, args=(tmp_path, start, 0.1)) for _ in range(2)]
    for process in sweeps:
        process.start()
    while len(list(tmp_path.glob("ready *"))) < 2 and all(process.is_alive() for process in sweeps):
        time.sleep(0.01)
    start.set()
    for process in sweeps:
        process.join()
        assert process.exitcode == 0
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert len(rows) == len({row["cell"] for row in rows}) == len(CELLS)
    assert {row["by"] for row in rows} == {process.pid for process in sweeps}


def test_the_cell_of_a_process_that_dies_is_done_by_another(tmp_path, holder):
    runner, waited = make_runner(tmp_path), []
    other = holder(runner.name(CELLS[3]))

    def waiting(count):
        waited.append((count, len(runner.store.rows())))
        os.kill(other.pid, signal.SIGKILL)

    run_cells(runner, CELLS, waiting=waiting)
    assert waited == [(1, len(CELLS) - 1)]
    assert len(runner.store.rows()) == len(CELLS)


def test_a_claim_is_held_for_its_block_and_no_longer(tmp_path, holder):
    process, claims = holder("one"), Claims(tmp_path)
    with claims.claim("one", wait=False) as held, claims.claim("two", wait=False) as other:
        assert (held, other) == (False, True)
    process.kill()
    with claims.claim("one") as held:
        assert held


def test_without_locks_every_claim_is_granted(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("no locks available")

    monkeypatch.setattr("nlsr_jax.files.claims.fcntl.lockf", refuse)
    with Claims(tmp_path).claim("one", wait=False) as held:
        assert held
