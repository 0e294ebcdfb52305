"""Commands that are killed, in short, and deaths before every single operation on files."""

import itertools
import os
import pathlib
import random
import shutil
import subprocess
import sys
import time

import pytest

from nlsr_jax.errors import InputError
from nlsr_jax.files import scratch
from nlsr_jax.files.output import check_free, whole_directory, whole_file
from nlsr_jax.files.ownership import nothing_foreign
from tests.deaths import Killed, deadly_operations
from tests.e2e.command import ROOT
from tests.reliability import crashes
from tests.reliability.jobs import fingerprint, make_jobs


@pytest.mark.slow
def test_realign_killed_at_random_moments(tmp_path):
    kill(tmp_path, "realign", 2)


@pytest.mark.long
@pytest.mark.parametrize("name", ["identify", "align", "finetune", "sweep"])
def test_others_killed_at_random_moments(tmp_path, name):
    kill(tmp_path, name, 10)


def kill(folder, name, kills):
    (folder / "files").mkdir()
    (job,) = make_jobs(folder / "files", names=[name]).values()
    whole = crashes.measure(job, folder / "undisturbed")
    crashes.kill_often(job, kills, whole, folder, random.Random(0))


SWEEP = """
import pathlib, sys
from nlsr_jax.files.output import whole_directory
from nlsr_jax.sweep.store import CellStore
from nlsr_jax.sweep.runner import export_parquet

print("ready", flush=True)
store = CellStore(sys.argv[1], {"config": "x"})
for number in range(20):
    kept = store.path / "adapters" / str(number % 4)
    if not kept.exists():
        with whole_directory(kept) as folder:
            for name in "abc":
                (folder / name).write_text(name * 10_000)
    if str(number) not in store.rows():
        store.add({"cell": str(number), "settings": {}, "topics": {}, "text": str(number) * 10_000})
rows = store.rows()
for _ in range(20):
    export_parquet([rows[str(number)] for number in range(20)], store.path / "table.parquet")
"""


@pytest.mark.long
def test_what_a_sweep_writes_survives_kills(tmp_path):
    """The files of a sweep without its models: kills while rows, adapters and the table are written."""

    def start():
        command = [sys.executable, "-c", SWEEP, str(tmp_path / "out")]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, text=True)
        assert process.stdout.readline() == "ready\n"
        return process

    def measured():
        with start() as process:
            began = time.monotonic()
            process.wait()
        return time.monotonic() - began

    seconds = measured()
    rows = crashes._rows(tmp_path / "out")
    whole = crashes.Undisturbed(fingerprint(tmp_path / "out"), rows, 0.0, seconds)
    job, draw, deaths = crashes.Job("sweep", (), {}, grows=True), random.Random(0), 0
    assert len(rows) == 20
    shutil.rmtree(tmp_path / "out")
    crashes._furnish(tmp_path)
    while deaths < 2:
        with start() as process:
            try:
                process.wait(timeout=draw.uniform(0, 0.4 * seconds))
                shutil.rmtree(tmp_path / "out")
            except subprocess.TimeoutExpired:
                process.kill()
                deaths += 1
        crashes._check_state(job, tmp_path, whole, None)
    measured()
    assert fingerprint(tmp_path / "out") == whole.made


@pytest.fixture
def die_at(monkeypatch):
    """Sets the operation on files before which the process dies."""
    places = [(pathlib.Path, name) for name in ("rename", "replace", "hardlink_to", "mkdir", "chmod")]
    places += [(scratch.tempfile, "mkdtemp"), (scratch, "_exchange"), (os, "rmdir"), (os, "unlink")]
    return deadly_operations(monkeypatch, places)


def write_folder(path, text, overwrite):
    with whole_directory(path, overwrite=overwrite, foreign=nothing_foreign) as folder:
        for name in "ab":
            (folder / name).write_text(text)


def write_file(path, text, overwrite):
    with whole_file(path, overwrite=overwrite, foreign=nothing_foreign) as file:
        file.write_text(text * 2)


def content(path):
    if not path.exists():
        return None
    return path.read_text() if path.is_file() else "".join(file.read_text() for file in sorted(path.iterdir()))


@pytest.mark.parametrize("exchange", [True, False])
@pytest.mark.parametrize("old", [None, "x"])
@pytest.mark.parametrize("write", [write_folder, write_file])
def test_a_death_before_any_operation_loses_nothing(tmp_path, die_at, monkeypatch, write, old, exchange):
    if not exchange:  # a system that cannot exchange two names
        monkeypatch.setattr(scratch, "_EXCHANGE", 2**30)
    for count in itertools.count():
        path = tmp_path / str(count) / "out"
        path.parent.mkdir()
        if old:
            write(path, old, False)
        die_at(count)
        try:
            write(path, "y", bool(old))
            die_at(None)
            break
        except Killed:
            die_at(None)
        found = content(path)
        missing = found is None and not exchange and write is write_folder
        assert missing or found in ("yy", old and old * 2)
        if found == "yy" and not old:
            with pytest.raises(InputError, match="output exists"):
                write(path, "y", False)
        else:
            if missing and old:  # between two renames: what was there is put back
                assert content(check_free(path, True, foreign=nothing_foreign)) == "xx"
            write(path, "y", bool(old))
        assert content(path) == "yy"
        assert list(path.parent.iterdir()) == [path], "something is left behind"
    assert count > 3


def test_what_another_process_is_writing_is_left_alone(tmp_path):
    with whole_directory(tmp_path / "out") as first:
        (first / "a").write_text("first")
        write_folder(tmp_path / "out", "second", overwrite=False)
        assert (first / "a").read_text() == "first"
        (first / "b").touch()
        (first / "c").touch()
        with pytest.raises(InputError, match="output exists"):
            check_free(tmp_path / "out")
        for file in (tmp_path / "out").iterdir():
            file.unlink()
    assert content(tmp_path / "out") == "first"
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


def test_only_what_was_left_of_the_same_output_is_removed(tmp_path):
    others = [
        ".out.abc.partial",
        ".out.training.abcdefgh.partial",
        ".other.abcdefgh.partial",
        "out.abcdefgh.partial",
    ]
    for name in (*others, ".out.abcdefgh.partial"):
        (tmp_path / name).mkdir()
    (tmp_path / ".out.12345678.partial").write_text("a file is none of ours")
    (tmp_path / ".out.87654321.partial").symlink_to(tmp_path / ".out.abc.partial")
    (tmp_path / ".out.my_notes.partial" / "new").mkdir(parents=True)
    (tmp_path / ".out.my_notes.partial" / "new" / "thesis.txt").write_text("there is no mark")
    write_folder(tmp_path / "out", "x", overwrite=False)
    kept = {*others, ".out.12345678.partial", ".out.87654321.partial", ".out.my_notes.partial", "out"}
    assert (tmp_path / ".out.my_notes.partial" / "new" / "thesis.txt").exists()
    assert {path.name for path in tmp_path.iterdir()} == kept
