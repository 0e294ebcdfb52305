"""Fleets: every output as a run of its own makes it, resumed after any death; what fails costs only itself."""

import contextlib
import dataclasses
import errno
import json
import os
import pathlib
import shutil

import pytest

from nlsr_jax.errors import InputError
from nlsr_jax.files import scratch
from nlsr_jax.files.output import check_free
from nlsr_jax.fleet.folder import STATES, FleetFolder
from nlsr_jax.fleet.running import Fleet
from nlsr_jax.fleet.table import describe_jobs, write_table
from nlsr_jax.fleet.tasks import Task
from nlsr_jax.formats.peft import save_adapter
from nlsr_jax.nlsr.settings import PUBLISHED
from nlsr_jax.pipeline import realign_files
from nlsr_jax.pipeline.settings import Settings
from tests.adapter_files import SIZES, descend, save_family
from tests.deaths import Killed, deadly_operations
from tests.oracles import random_adapter
from tests.reliability.jobs import fingerprint

MAGNITUDE = dataclasses.replace(PUBLISHED, method="magnitude")


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    """An aligned adapter with four that were fine-tuned from it, ``customer-0`` to ``customer-3``."""
    folder = tmp_path_factory.mktemp("family")
    aligned = save_family(folder)
    for number in range(4):
        save_adapter(descend(10 + number, aligned, 0.2), folder / f"customer-{number}")
    return folder


def task(family, name, output=None, **changes):
    settings = Settings(
        aligned=str(family / "aligned"),
        finetuned=str(family / name),
        **{**dataclasses.asdict(MAGNITUDE), **changes},
    )
    return Task(output or name, str(family / name), settings, {})


def tasks(family, **changes):
    return [task(family, f"customer-{number}", **changes) for number in range(4)]


def run(path, given, attempt="one", **options):
    """Run tasks; returns the outcomes' errors by output."""
    outcomes = Fleet(FleetFolder(path), attempt, **options).run(given)
    return {one.task.output: one.error for one in outcomes}


def state(path):
    """All that a fleet has made, but for times."""
    outputs = sorted(entry for entry in path.iterdir() if entry.is_dir() and entry.name[0] != ".")
    return {entry.name: fingerprint(entry) for entry in outputs}


@pytest.fixture(scope="module")
def whole(family, tmp_path_factory):
    """A fleet that nothing has disturbed."""
    folder = tmp_path_factory.mktemp("whole") / "fleet"
    assert set(run(folder, tasks(family)).values()) == {None}
    return folder


def test_every_output_is_that_of_a_run_of_its_own(family, whole, tmp_path):
    for one in tasks(family):
        record = realign_files(one.settings, tmp_path / one.output)
        ours = json.loads((whole / one.output / "realignment.json").read_text())
        for name in ("outputs", "seconds", "seal"):
            del record[name], ours[name]
        assert ours == json.loads(json.dumps(record))
    assert state(tmp_path) == state(whole)


def test_a_job_that_fails_costs_only_itself(family, whole, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(family / "customer-0", broken)
    data = (broken / "adapter_model.safetensors").read_bytes()
    (broken / "adapter_model.safetensors").write_bytes(data[: len(data) // 2])
    other = random_adapter(5, layers=2, rank=4, sizes={**SIZES, "q_proj": (64, 64)})
    save_adapter(other, tmp_path / "other base")
    good = tasks(family)
    given = [
        good[0],
        task(family, broken, "broken"),
        good[1],
        task(family, tmp_path / "other base", "other"),
        task(family, "absent", "absent"),
        good[2],
        task(family, "customer-3", "odd", sparsity=2.0),
        Task("asked", "x", None, {}, InputError("these flags exclude each other")),
        good[3],
    ]
    errors = run(tmp_path / "fleet", given)
    assert [name for name, error in errors.items() if error] == ["broken", "other", "absent", "odd", "asked"]
    assert "broken" in errors["broken"]
    assert "q_proj" in errors["other"]
    assert "--sparsity is 2" in errors["odd"]
    assert errors["asked"] == "these flags exclude each other"
    assert state(tmp_path / "fleet") == state(whole)
    assert {entry.name for entry in (tmp_path / "fleet").iterdir()} == {*state(whole), STATES}


def test_what_is_not_the_inputs_fault_costs_only_its_job(family, tmp_path, monkeypatch, capsys):
    def broken(*_, **__):
        raise RuntimeError("out of\nluck")

    monkeypatch.setattr("nlsr_jax.pipeline.realignment.judge_descent", broken)
    assert run(tmp_path / "fleet", tasks(family)[:1]) == {"customer-0": "RuntimeError: out of"}
    assert "Traceback" in capsys.readouterr().err


def test_a_full_disk_fails_a_job_and_leaves_nothing(family, whole, tmp_path, monkeypatch):
    written, rename = [], pathlib.Path.rename

    def full(path, target):
        if path.name == "new" and pathlib.Path(target).name == "customer-1" and not written:
            written.append(target)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return rename(path, target)

    monkeypatch.setattr(pathlib.Path, "rename", full)
    errors = run(tmp_path / "fleet", tasks(family))
    assert [name for name, error in errors.items() if error] == ["customer-1"]
    assert "no space left on the device" in errors["customer-1"]
    assert not list((tmp_path / "fleet").glob(".customer*"))
    assert set(run(tmp_path / "fleet", tasks(family), "two").values()) == {None}
    assert state(tmp_path / "fleet") == state(whole)


@pytest.fixture
def die_at(monkeypatch):
    """Sets the operation on files before which the process dies."""
    places = [(pathlib.Path, name) for name in ("rename", "replace", "mkdir")]
    places += [(scratch, "_exchange"), (os, "rmdir")]
    return deadly_operations(monkeypatch, places)


def test_a_fleet_goes_on_after_any_death(family, whole, tmp_path, die_at):
    path, deaths = tmp_path / "fleet", 0
    given = tasks(family)[:2]
    expected = {name: made for name, made in state(whole).items() if name in ("customer-0", "customer-1")}
    for count in range(1, 12, 3):
        shutil.rmtree(path, ignore_errors=True)
        for later in (count, count + 1, None):
            die_at(later)
            with contextlib.suppress(Killed):
                errors = run(path, given, str(later))
            deaths += later is not None
            die_at(None)
            made = state(path) if path.exists() else {}
            whole_ones = {name: found for name, found in made.items() if not name.startswith(".")}
            assert all(expected[name] == found for name, found in whole_ones.items()), "an output is not whole"
        assert errors == {"customer-0": None, "customer-1": None}
        assert state(path) == expected
        assert {entry.name for entry in path.iterdir()} == {*expected, STATES}, "something is left behind"
    assert deaths == 8


def test_outputs_stay_and_others_are_an_error_or_made_again(family, whole, tmp_path):
    path = tmp_path / "fleet"
    shutil.copytree(whole, path)
    before = {name: (path / name).stat().st_mtime_ns for name in state(whole)}

    def times():
        return {name: (path / name).stat().st_mtime_ns for name in before}

    assert set(run(path, tasks(family), "two").values()) == {None}
    assert times() == before
    given = tasks(family)
    given[1] = task(family, "customer-1", seed=7)
    errors = run(path, given, "three")
    assert [name for name, error in errors.items() if error] == ["customer-1"]
    assert (
        "customer-1: exists, and it was made with other settings; name another output, or give --overwrite"
        in errors["customer-1"]
    )
    assert times() == before
    assert set(run(path, given, "four", overwrite=True).values()) == {None}
    assert [name for name, time in times().items() if time != before[name]] == ["customer-1"]
    record = json.loads((path / "customer-1" / "realignment.json").read_text())
    assert record["settings"]["seed"] == 7


def test_an_output_of_another_input_is_an_error(family, tmp_path):
    copy = tmp_path / "family"
    shutil.copytree(family, copy)
    given = tasks(copy)[:2]
    run(tmp_path / "fleet", given)
    save_adapter(descend(50, random_adapter(0, layers=2, rank=4, sizes=SIZES)), copy / "customer-1", overwrite=True)
    errors = run(tmp_path / "fleet", given, "two")
    assert errors["customer-0"] is None
    assert "finetuned: " in errors["customer-1"]
    assert "has changed since" in errors["customer-1"]


def test_an_old_output_is_not_taken_for_the_one_that_a_kill_prevented(family, tmp_path, die_at):
    path = tmp_path / "fleet"
    run(path, tasks(family)[:1])
    other = [task(family, "customer-0", seed=7)]
    for count in range(3, 9):
        die_at(count)
        with contextlib.suppress(Killed):
            run(path, other, f"try {count}", overwrite=True)
        die_at(None)
        check_free(path / "customer-0", True)
        errors = run(path, other, f"again {count}")
        seed = json.loads((path / "customer-0" / "realignment.json").read_text())["settings"]["seed"]
        assert (seed == 7) == (errors["customer-0"] is None)
    assert seed == 7


def test_a_folder_of_other_files_is_refused(family, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match=r"holds thesis.txt and no .fleet, so it is not the folder of a fleet"):
        FleetFolder(tmp_path / "mine")
    with pytest.raises(InputError, match="lies in the input JOBS"):
        FleetFolder(family / "fleet", {"JOBS": family})
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="exists and is not a folder"):
        FleetFolder(tmp_path / "file")


def test_the_table_says_what_became_of_every_job(family, tmp_path):
    folder = FleetFolder(tmp_path / "fleet")
    given = [*tasks(family)[:2], task(family, "absent")]
    rows = describe_jobs(Fleet(folder, "one").run(given), folder)
    counts = write_table(rows, folder)
    assert counts == {"repaired": 2, "unchanged": 0, "withheld": 0, "failed": 1}
    table = json.loads((tmp_path / "fleet" / "fleet.json").read_text())
    assert table["summary"] == {"jobs": 3, **counts}
    assert [row["output"] for row in table["jobs"]] == ["customer-0", "customer-1", "absent"]
    first, last = table["jobs"][0], table["jobs"][2]
    record = json.loads((tmp_path / "fleet" / "customer-0" / "realignment.json").read_text())
    assert first["entries_changed"] == record["summary"]["changed_entries"]
    assert first["seconds"] == pytest.approx(sum(record["seconds"].values()), abs=1e-3)
    assert "absent" in last["error"]
    page = (tmp_path / "fleet" / "fleet.html").read_text()
    again = describe_jobs(Fleet(folder, "two").run(given), folder)
    assert again[:2] == rows[:2]
    write_table(again, folder)
    assert (tmp_path / "fleet" / "fleet.html").read_text() == page, "the page holds times"
