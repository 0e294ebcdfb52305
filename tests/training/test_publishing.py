"""From run folder to output: a death before any operation on files loses neither the old output nor the new."""

import itertools
import json
import os
import pathlib
import shutil

import pytest

from nlsr_jax.errors import InputError
from nlsr_jax.training.folder import RunFolder
from nlsr_jax.training.publishing import published, training_folder, write_run
from tests.deaths import Killed, deadly_operations
from tests.own_outputs import RUN, save_training

ADAPTER, TRAINED = "adapter_config.json", "metrics.jsonl"


@pytest.fixture
def die_at(monkeypatch):
    """Sets the operation on files before which the process dies."""
    places = [(pathlib.Path, name) for name in ("rename", "replace", "unlink", "rmdir", "mkdir")]
    places += [(os, name) for name in ("unlink", "rmdir")]  # what rmtree uses
    return deadly_operations(monkeypatch, places)


def nothing():
    pass


def command(output, text="new", *, overwrite=False, seed=1, training=nothing, writing=nothing):
    """What a training program does; ``training`` happens once, however often the program is started."""
    with training_folder(output, overwrite=overwrite) as work:
        RunFolder(work, {**RUN, "seed": seed}).close()
        if not (work / TRAINED).exists():
            training()
            (work / TRAINED).touch()
        with published(work, output, overwrite=overwrite) as folder:
            (folder / ADAPTER).write_text(text)
            writing()
            write_run(work, folder)


def contents(output):
    return (output / ADAPTER).read_text() if output.exists() else None


@pytest.mark.parametrize("old", [None, "old"])
def test_a_death_at_any_moment_loses_nothing(tmp_path, die_at, old):
    for count in itertools.count():
        folder, trained = tmp_path / str(count), []

        def training(trained=trained):
            trained.append(len(trained))

        output = folder / "out"
        if old:
            save_training(output, old)
        die_at(count)
        try:
            command(output, overwrite=bool(old), training=training)
            break
        except Killed:
            pass
        finally:
            die_at(None)
        assert {path.name for path in folder.iterdir()} <= {"out", "out.training"} if folder.exists() else True
        if contents(output) not in (old, "new"):  # between two renames: what was there is put back
            assert contents(output) is None
            with pytest.raises(InputError, match="output exists"):
                command(output)
            assert contents(output) == old
        if contents(output) == "new":
            with pytest.raises(InputError, match="output exists; name another or give --overwrite"):
                command(output)
            assert [path.name for path in folder.iterdir()] == ["out"], "a finished run's folder is left behind"
            command(output, "other", overwrite=True, seed=2)
            assert contents(output) == "other"
        else:
            before = (folder / "out.training" / TRAINED).exists()
            command(output, overwrite=bool(old), training=training)
            assert contents(output) == "new"
            assert len(trained) == 1 or not before, "what was trained is lost"
        assert [path.name for path in folder.iterdir()] == ["out"]
        assert sorted(path.name for path in output.iterdir()) == [ADAPTER, TRAINED, "training.json"]
    assert count > 10
    assert contents(output) == "new"


def test_an_output_that_exists_is_refused_before_anything_is_made(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    with pytest.raises(InputError, match="output exists; name another or give --overwrite"):
        command(tmp_path / "out")
    with pytest.raises(InputError, match=r"replaces only what nlsr_jax has written, and this folder holds mine"):
        command(tmp_path / "out", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    (tmp_path / "out" / "mine").unlink()
    command(tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [ADAPTER, TRAINED, "training.json"]


def test_the_old_output_stays_until_the_new_is_whole_and_a_failed_run_can_go_on(tmp_path):
    output = tmp_path / "out"
    command(output, "old")

    def fail():
        assert contents(output) == "old"
        raise ValueError("cannot go on")

    with pytest.raises(ValueError, match="cannot go on"):
        command(output, overwrite=True, seed=2, writing=fail)
    assert contents(output) == "old"
    left = sorted(path.name for path in (tmp_path / "out.training").iterdir())
    assert left == ["checkpoints", TRAINED, "run.json"]
    with pytest.raises(
        InputError, match="contains a training run with a different seed; remove it or name another"
    ):
        command(output, overwrite=True, seed=3)
    assert contents(output) == "old"
    command(output, overwrite=True, seed=2)
    assert contents(output) == "new"


def test_an_output_that_appears_meanwhile_is_kept(tmp_path):
    output = tmp_path / "out"

    def appear():
        output.mkdir()
        (output / "mine").write_text("x")

    with pytest.raises(InputError, match="output exists"):
        command(output, training=appear)
    assert [path.name for path in output.iterdir()] == ["mine"]


def test_one_process_trains_at_a_time(tmp_path):
    def second():
        with pytest.raises(InputError, match="another process is training here; wait for it or name another"):
            command(tmp_path / "out", training=lambda: pytest.fail("two processes train"))

    command(tmp_path / "out", training=second)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    folder = tmp_path / "out.training"
    folder.mkdir()
    (folder / "plan.txt").write_text("mine")
    with pytest.raises(
        InputError, match=r"contains plan.txt and is not the folder of a training run; remove it or"
    ):
        command(tmp_path / "out")
    assert [path.name for path in folder.iterdir()] == ["plan.txt"]
    shutil.rmtree(folder)
    folder.write_text("mine")
    with pytest.raises(InputError, match="exists and is not a folder; remove it or name another output"):
        command(tmp_path / "out")
    assert folder.read_text() == "mine"


@pytest.mark.parametrize("name", [".run.json.partial", "metrics.jsonl", "checkpoints"])
def test_a_link_in_a_run_folder_is_refused_and_what_it_leads_to_left_alone(tmp_path, name):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "out.training").mkdir()
    (tmp_path / "out.training" / "run.json").write_text('{"settings": {}, "rows": "0"}')
    (tmp_path / "out.training" / name).symlink_to(tmp_path / "mine")
    with pytest.raises(InputError, match=rf"contains {name}, which is not part of the training run there"):
        command(tmp_path / "out")
    assert (tmp_path / "mine").read_text() == "mine"


def test_a_checkpoint_that_a_user_has_put_aside_is_kept(tmp_path):
    def put_aside():
        best = tmp_path / "out.training" / "checkpoints" / "best"
        best.mkdir(parents=True)
        (best / "mine").write_text("mine")

    command(tmp_path / "out", training=put_aside)
    assert contents(tmp_path / "out") == "new"
    best = tmp_path / "out.training" / "checkpoints" / "best"
    assert (best / "mine").read_text() == "mine"
    (tmp_path / "out.training" / "finished.json").write_text('{"settings": {}, "rows": "0"}')
    with pytest.raises(InputError, match=r"contains checkpoints/best, which is not part of the training run there"):
        command(tmp_path / "out", overwrite=True)
    assert (best / "mine").read_text() == "mine"


def test_what_a_user_puts_into_a_run_folder_stays(tmp_path):
    output, work = tmp_path / "out", tmp_path / "out.training"

    def put():
        (work / "thesis.txt").write_text("mine")

    command(output, training=put)
    assert contents(output) == "new"
    assert [path.name for path in work.iterdir()] == ["thesis.txt"]
    with pytest.raises(InputError, match=r"contains thesis.txt and is not the folder of a training run"):
        command(output, overwrite=True)
    (work / "run.json").write_text(json.dumps({**RUN, "seed": 1}))
    with pytest.raises(InputError, match=r"contains thesis.txt, which is not part of the training run there"):
        command(output, overwrite=True)
    assert contents(output) == "new"
    assert (work / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["finished.json", "run.json"])
def test_a_folder_that_looks_like_a_finished_run_is_left_alone(tmp_path, name):
    """What another program calls its run is neither removed nor put in the output's place."""
    work = tmp_path / "out.training"
    (work / "old").mkdir(parents=True)
    (work / "old" / "thesis.txt").write_text("mine")
    (work / name).write_text(json.dumps({"name": "mine"}))
    with pytest.raises(InputError, match="contains old and is not the folder of a training run"):
        command(tmp_path / "out")
    assert (work / "old" / "thesis.txt").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["out.training"]


@pytest.mark.parametrize(
    ("read", "how"), [("out.training/rows", "holds"), ("out/adapter", "holds"), ("", "lies in")]
)
def test_neither_output_nor_run_folder_may_touch_an_input(tmp_path, read, how):
    (tmp_path / "out.training").mkdir()
    (tmp_path / "out").mkdir()
    if read:
        (tmp_path / read).mkdir()

    def begin():
        with training_folder(tmp_path / "out", overwrite=True, inputs={"--start": tmp_path / read}):
            pytest.fail("it was begun")

    with pytest.raises(InputError, match=f"{how} the input --start"):
        begin()


def test_what_a_run_left_that_died_while_it_began_is_used(tmp_path):
    folder = tmp_path / "out.training"
    folder.mkdir()
    (folder / ".run.json.partial").write_text("{")
    command(tmp_path / "out")
    assert contents(tmp_path / "out") == "new"


def test_an_interruption_says_how_to_go_on(tmp_path):
    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(InputError, match=r"^interrupted$"), training_folder(tmp_path / "out"):
        interrupt()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match="interrupted; run the same command again to resume from its checkpoint"):
        command(tmp_path / "out", training=interrupt)
    command(tmp_path / "out")
    assert contents(tmp_path / "out") == "new"


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("/", "name another output"),
        ("{folder}/file", "exists and is not a folder"),
        ("{folder}/file/out", "is not a folder that can be written to"),
        ("{folder}/link", "exists and is not a folder"),
    ],
)
def test_places_that_cannot_be_outputs_are_refused(tmp_path, output, message):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(InputError, match=message):
        command(output.format(folder=tmp_path), overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link"]


def test_relative_and_odd_paths_name_the_same_folder(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    command("../a/./out/")
    assert contents(tmp_path / "a" / "out") == "new"
