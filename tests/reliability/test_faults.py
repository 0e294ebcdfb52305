"""Full disks, places that cannot be written to, permissions lost on the way, two runs into one output."""

import concurrent.futures
import random
import signal
import subprocess
import sys
import time

import pytest

from nlsr_jax.errors import InputError
from nlsr_jax.files.output import check_free, whole_directory
from nlsr_jax.sweep.runner import export_parquet
from nlsr_jax.sweep.store import CellStore
from tests.e2e.command import python
from tests.reliability import faults
from tests.reliability.jobs import fingerprint, finish, make_jobs, refusal

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    return make_jobs(tmp_path_factory.mktemp("files"), names=["realign", "identify", "align"])


@pytest.fixture(scope="module")
def realigned(jobs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("realigned")
    finish(jobs["realign"].start(folder / "out"))
    return fingerprint(folder / "out")


def available(place, *arguments):
    """The place that was asked for, or a test that is skipped with the reason."""
    try:
        return place(*arguments)
    except faults.Unavailable as reason:
        pytest.skip(str(reason))


@pytest.fixture
def disk(tmp_path):
    made = available(faults.Disk, tmp_path / "disk", 1_000_000)
    yield made
    made.close()


def names(folder):
    return {path.name for path in folder.iterdir()}


def refused(place):
    """What is said of the output ``out`` in a folder without permission."""
    return f"{place / 'out'}: {place} is not a folder that can be written to; name another output"


def wait_until(condition, process):
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)


def test_training_goes_on_when_a_full_disk_has_room_again(jobs, disk):
    output = disk.folder / "out"
    assert "no space left on the device; free some or name another output" in refusal(jobs["align"].start(output))
    assert names(disk.folder) <= {"out.training"}
    disk.change("size=64m")
    finish(jobs["align"].start(output))
    assert names(disk.folder) == {"out"}
    assert set(fingerprint(output)) >= {"adapter_model.safetensors", "metrics.jsonl"}


def test_rows_and_table_on_a_full_disk(disk):
    store = CellStore(disk.folder / "sweep", {"config": "x"})
    noise = random.Random(0).randbytes(50_000).hex()
    row = {"settings": {}, "topics": {}, "text": noise}
    table = store.path / "table.parquet"
    export_parquet([{"cell": "0", **row}], table)
    before = table.read_bytes()

    def fill():
        for number in range(100):
            store.add({"cell": str(number), **row})

    with pytest.raises(InputError, match=r"rows.jsonl: no space left on the device"):
        fill()
    rows = store.rows()
    assert 5 < len(rows) < 15
    with pytest.raises(InputError, match=r"table.parquet: no space left on the device"):
        export_parquet([{**one, "text": f"{i}{noise}" * 3} for i, one in enumerate(rows.values())], table)
    assert table.read_bytes() == before
    assert names(store.path) == {"rows.jsonl", "study.json", ".lock", "table.parquet"}
    disk.change("size=64m")
    store.add({"cell": "last", **row})
    assert set(store.rows()) == {*rows, "last"}


def test_files_that_may_not_grow(jobs, tmp_path, tmp_path_factory):
    """Where no disk can be mounted, this stands for a full one."""
    prefix = available(faults.limited, 2000)
    # What is compiled is cut off too, which others would stumble over.
    own = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("compiled"))}
    line = refusal(jobs["realign"].start(tmp_path / "out", prefix=prefix, env=own))
    assert f"{tmp_path / 'out'}: no space left on the device" in line
    assert names(tmp_path) == set()


@pytest.mark.parametrize("name", ["realign", "align"])
def test_a_place_that_is_read_only_is_refused_before_the_work(jobs, tmp_path, name):
    prefix = available(faults.obedient)
    place = tmp_path / "place"
    place.mkdir()
    with faults.read_only(place):
        process = jobs[name].start(place / "out", prefix=prefix)
        _, text = process.communicate()
    assert process.returncode == 1
    assert text.splitlines() == [f"error: {refused(place)}"]
    assert names(place) == set()


def test_a_read_only_disk_is_refused(disk):
    disk.change("ro")
    with pytest.raises(InputError, match="is not a folder that can be written to"):
        check_free(disk.folder / "deep" / "out")
    with (
        pytest.raises(InputError, match="is not a folder that can be written to"),
        whole_directory(disk.folder / "out"),
    ):
        pytest.fail("there is no such place")


def test_permission_lost_on_the_way(jobs, tmp_path, realigned):
    place = tmp_path / "place"
    place.mkdir()
    process = jobs["realign"].start(place / "out", prefix=available(faults.obedient))
    first = process.stderr.readline()
    with faults.read_only(place):
        assert "read adapters" in first
        assert refusal(process) == f"error: {refused(place)}"
    assert names(place) == set()
    finish(jobs["realign"].start(place / "out"))
    assert fingerprint(place / "out") == realigned


LOSE = """
import pathlib, sys
from nlsr_jax.errors import InputError
from nlsr_jax.files.output import whole_directory
output = pathlib.Path(sys.argv[1])
try:
    with whole_directory(output) as folder:
        (folder / "file").write_text("x")
        output.parent.chmod(0o555)
except InputError as error:
    print(error)
output.parent.chmod(0o755)
print(*(path for path in output.parent.rglob("*") if path.is_file()))
"""


def test_permission_lost_while_it_writes_leaves_nothing_but_an_empty_folder_for_the_next_run(tmp_path):
    output = tmp_path / "place" / "out"
    output.parent.mkdir()
    command = [*available(faults.obedient), sys.executable, "-c", LOSE, str(output)]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert found == [refused(output.parent), ""]
    with whole_directory(output) as folder:
        (folder / "file").write_text("y")
    assert names(output.parent) == {"out"}


@pytest.mark.long
def test_training_that_loses_its_permission_goes_on_later(jobs, tmp_path):
    finish(jobs["align"].start(tmp_path / "whole"))
    place = tmp_path / "place"
    place.mkdir()
    process = jobs["align"].start(place / "out", prefix=available(faults.obedient))
    checkpoints = place / "out.training" / "checkpoints"
    wait_until(
        lambda: checkpoints.exists() and any(path.name.isdecimal() for path in checkpoints.iterdir()), process
    )
    with faults.read_only(checkpoints):
        line = refusal(process)
    assert "out.training" in line
    assert "ermission denied" in line
    assert names(place) == {"out.training"}
    finish(jobs["align"].start(place / "out"))
    assert names(place) == {"out"}
    assert fingerprint(place / "out") == fingerprint(tmp_path / "whole")


def test_of_two_runs_at_once_the_first_to_end_wins(jobs, tmp_path, realigned):
    started = [jobs["realign"].start(tmp_path / "out") for _ in range(2)]
    texts = [process.communicate(timeout=400)[1] for process in started]
    assert sorted(process.returncode for process in started) == [0, 1]
    loser = texts[[process.returncode for process in started].index(1)]
    lines = [line for line in loser.splitlines() if line.startswith("error: ")]
    assert lines == [f"error: {tmp_path / 'out'}: output exists; name another or give --overwrite"]
    assert "Traceback" not in loser
    assert names(tmp_path) == {"out"}
    assert fingerprint(tmp_path / "out") == realigned


@pytest.mark.long
def test_of_two_trainings_at_once_the_first_goes_on(jobs, tmp_path):
    first = jobs["align"].start(tmp_path / "out")
    wait_until((tmp_path / "out.training" / "run.json").exists, first)
    first.send_signal(signal.SIGSTOP)  # else it may be done before the second has started
    try:
        line = refusal(jobs["align"].start(tmp_path / "out"))
    finally:
        first.send_signal(signal.SIGCONT)
    assert "out.training: another process is training here; wait for it or name another output" in line
    finish(first)
    assert names(tmp_path) == {"out"}


def test_two_writers_of_one_file_with_overwrite_leave_one_of_theirs_whole(tmp_path):
    program = """
import pathlib, sys
from nlsr_jax.files.output import whole_directory
from nlsr_jax.files.ownership import nothing_foreign
for i in range(100):
    with whole_directory(sys.argv[1], overwrite=True, foreign=nothing_foreign) as folder:
        for name in "abc":
            (folder / name).write_text(sys.argv[2])
"""
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda text: python("-c", program, tmp_path / "out", text), "xy"))
    assert len({(tmp_path / "out" / name).read_text() for name in "abc"}) == 1
    assert names(tmp_path) == {"out"}
