"""The folder of a run: what it keeps, what it drops, whom it refuses."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nlsr_jax.errors import InputError
from nlsr_jax.training.folder import RunFolder, write_whole
from nlsr_jax.training.optimizer import make_optimizer
from nlsr_jax.training.step import TrainState
from tests.training import tiny

KEY = jax.random.key(1)


def make_state(step=0, seed=0):
    trainable, _ = tiny.bigram_arrays(seed)
    trainable = jax.tree.map(jnp.asarray, trainable)
    state = make_optimizer(tiny.settings("sft"), 10).init(trainable)
    state = jax.tree.map(lambda leaf: leaf + jnp.asarray(step, leaf.dtype), state)
    return TrainState(jnp.asarray(step, jnp.int32), trainable, state)


@pytest.fixture
def folder(tmp_path):
    run = RunFolder(tmp_path / "a" / "run", {"seed": 1, "data": "abc"})
    yield run
    run.close()


def again(folder, **changes):
    return RunFolder(folder.path, {"seed": 1, "data": "abc", **changes})


def test_a_state_comes_back_to_the_byte(folder):
    assert folder.restore(make_state(), KEY).step == 0
    saved = make_state(7, seed=3)
    folder.save(saved, KEY)
    found = again(folder).restore(make_state(), KEY)
    assert jax.tree.structure(found) == jax.tree.structure(saved)
    for one, two in zip(jax.tree.leaves(found), jax.tree.leaves(saved), strict=True):
        assert isinstance(one, jax.Array)
        assert (one.dtype, one.tobytes()) == (two.dtype, two.tobytes())


def test_the_latest_state_counts_and_few_are_kept(folder):
    for step in (3, 6, 9, 12):
        folder.save(make_state(step), KEY)
    assert int(again(folder).restore(make_state(), KEY).step) == 12
    names = sorted(path.name for path in (folder.path / "checkpoints").iterdir())
    assert names == ["12", "9"]


def test_half_a_checkpoint_is_none(folder):
    folder.save(make_state(3), KEY)
    folder.save(make_state(6), KEY)
    (folder.path / "checkpoints" / "6").rename(folder.path / "checkpoints" / "6.orbax-checkpoint-tmp")
    found = again(folder)
    assert int(found.restore(make_state(), KEY).step) == 3
    found.save(make_state(6, seed=4), KEY)
    assert int(again(folder).restore(make_state(), KEY).step) == 6


@pytest.mark.parametrize("other", [jax.random.key(2), jax.random.key(1, impl="rbg")])
def test_a_checkpoint_of_another_key_is_refused(folder, other):
    folder.save(make_state(3), KEY)
    with pytest.raises(InputError, match="its checkpoint was made with another seed; remove it"):
        again(folder).restore(make_state(), other)


@pytest.mark.parametrize(
    ("changes", "names"),
    [({"seed": 2}, "seed"), ({"data": "x", "more": [1]}, "data, more"), ({"data": ["abc"]}, "data")],
)
def test_another_run_is_refused_with_what_differs(folder, changes, names):
    before = (folder.path / "run.json").read_bytes()
    with pytest.raises(InputError) as caught:
        again(folder, **changes)
    assert str(caught.value) == (
        f"{folder.path}: contains a training run with a different {names}; remove it or name another output"
    )
    assert (folder.path / "run.json").read_bytes() == before


def test_a_run_that_lacks_what_the_folder_has_is_refused(folder):
    with pytest.raises(InputError, match="a different data;"):
        RunFolder(folder.path, {"seed": 1})


@pytest.mark.parametrize("text", ["", "{", "[1]", "7"])
def test_an_identity_that_cannot_be_read_is_no_run(folder, text):
    (folder.path / "run.json").write_text(text)
    with pytest.raises(InputError, match="a different data, seed;"):
        again(folder)


def test_tuples_and_lists_are_one_in_an_identity(tmp_path):
    RunFolder(tmp_path, {"modules": ("q_proj", "v_proj")}).close()
    RunFolder(tmp_path, {"modules": ["q_proj", "v_proj"]}).close()
    with pytest.raises(InputError, match="a different modules"):
        RunFolder(tmp_path, {"modules": ["q_proj"]})


def test_metrics_behind_the_checkpoint_and_half_lines_are_dropped(folder):
    for step in (1, 10, 20, 30):
        folder.log({"step": step, "loss": step / 3})
    file = folder.path / "metrics.jsonl"
    with file.open("a") as handle:
        handle.write('{"step": 5, "lo')
    folder.start_metrics(20)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert lines == [{"step": step, "loss": step / 3} for step in (1, 10, 20)]
    folder.log({"step": 30, "loss": 1.0})
    assert [json.loads(line)["step"] for line in file.read_text().splitlines()] == [1, 10, 20, 30]


def test_a_line_that_lacks_its_end_alone_is_whole(folder):
    folder.log({"step": 1})
    file = folder.path / "metrics.jsonl"
    file.write_text(file.read_text()[:-1])
    folder.start_metrics(4)
    folder.log({"step": 10})
    assert file.read_text() == '{"step": 1}\n{"step": 10}\n'


@pytest.mark.parametrize("line", ["", "7", "null", '"text"', "{}", "[1]", '{"step": 1'])
def test_lines_that_are_no_metrics_are_dropped(folder, line):
    file = folder.path / "metrics.jsonl"
    file.write_text('{"step": 1}\n' + line + "\n")
    folder.start_metrics(50)
    assert file.read_text() == '{"step": 1}\n'


def test_metrics_start_without_a_file(folder):
    folder.start_metrics(0)
    assert not (folder.path / "metrics.jsonl").exists()


def test_reference_log_probabilities_come_back(folder):
    assert folder.reference((5, 2)) is None
    values = np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32)
    folder.keep_reference(values)
    found = again(folder).reference((5, 2))
    assert (found.dtype, found.tobytes()) == (values.dtype, values.tobytes())


def test_a_file_is_written_whole_over_what_was_left(tmp_path):
    file = tmp_path / "x.json"
    for data in (b"first, and long", b"two"):
        (tmp_path / ".x.json.partial").write_bytes(b"what a process left that died here")
        write_whole(file, data)
        assert [path.name for path in tmp_path.iterdir()] == ["x.json"]
        assert file.read_bytes() == data
    (tmp_path / "y").touch()
    assert file.stat().st_mode == (tmp_path / "y").stat().st_mode


@pytest.mark.parametrize("link", ["symlink_to", "hardlink_to"])
def test_a_file_is_not_written_through_a_link(tmp_path, link):
    (tmp_path / "mine").write_text("mine")
    getattr(tmp_path / ".x.json.partial", link)(tmp_path / "mine")
    write_whole(tmp_path / "x.json", b"new")
    assert (tmp_path / "mine").read_text() == "mine"
    assert (tmp_path / "x.json").read_bytes() == b"new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "x.json"]
