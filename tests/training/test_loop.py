"""The loop: resumed runs end with the same bytes, other runs are refused, broken ones save nothing."""

import errno
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nlsr_jax.data.batching import epoch_order
from nlsr_jax.errors import InputError
from nlsr_jax.random_streams import stream
from nlsr_jax.training import folder as folders
from nlsr_jax.training import loop
from tests.training import tiny

KEY = jax.random.key(3)
ROWS = 22  # six batches of four, the last of which is filled up
SETTINGS = {"epochs": 2, "save_every": 3}


class Killed(BaseException):
    """What ends a run at once."""


def make_task(objective, **changes):
    trainable, frozen = tiny.bigram_arrays()
    packed = tiny.make_packed(objective, ROWS)
    desirable = np.arange(ROWS) % 3 > 0 if objective == "kto" else None
    return loop.Task(tiny.bigram, trainable, frozen, packed, desirable)._replace(**changes)


def run(objective, folder=None, *, key=KEY, task=None, identity=None, **changes):
    settings = tiny.settings(objective, **{**SETTINGS, **changes})
    return loop.train(key, task or make_task(objective), settings, folder=folder, identity=identity)


@pytest.fixture
def killed_before(monkeypatch):
    """Sets the step before which runs die; None for never. Returns the batches that were trained on."""
    seen, last, prepare = [], {"step": None}, loop.prepare_step

    def patched(*arguments):
        optimizer, step = prepare(*arguments)

        def counted(state, frozen, rows):
            if int(state.step) + 1 == last["step"]:
                raise Killed
            seen.append((int(state.step) + 1, np.array(rows.tokens)))
            return step(state, frozen, rows)

        return optimizer, counted

    monkeypatch.setattr(loop, "prepare_step", patched)

    def choose(step):
        last["step"] = step
        return seen

    return choose


def leaves(state):
    return [(leaf.dtype, leaf.shape, leaf.tobytes()) for leaf in jax.tree.leaves(state)]


def metrics(folder):
    """The logged lines without their times."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert all(line.pop("tokens_per_second") > 0 for line in lines)
    return lines


def test_a_run_killed_before_or_behind_any_checkpoint_ends_with_the_same_bytes(tmp_path, killed_before):
    whole = run("dpo", tmp_path / "whole")
    for step in (1, 4, 9, 12):
        folder = tmp_path / str(step)
        killed_before(step)
        with pytest.raises(Killed):
            run("dpo", folder)
        seen = killed_before(None)
        seen.clear()
        resumed = run("dpo", folder)
        assert seen[0][0] == (step - 1) // 3 * 3 + 1, "it does not go on from the last checkpoint"
        assert leaves(resumed) == leaves(whole)
        assert metrics(folder) == metrics(tmp_path / "whole")


@pytest.mark.parametrize("objective", ["sft", "dpo", "kto"])
def test_a_run_killed_again_and_again_ends_with_the_same_bytes(tmp_path, killed_before, monkeypatch, objective):
    whole = run(objective, tmp_path / "whole")
    assert leaves(run(objective)) == leaves(whole), "keeping a folder changes the result"
    measured = []
    measure = loop._measure
    monkeypatch.setattr(loop, "_measure", lambda *given: measured.append(1) or measure(*given))
    for step in (2, 6, 5, 10, 12):  # also before the step that the last one died at
        killed_before(step)
        with pytest.raises(Killed):
            run(objective, tmp_path / "run")
    killed_before(None)
    assert leaves(run(objective, tmp_path / "run")) == leaves(whole)
    assert metrics(tmp_path / "run") == metrics(tmp_path / "whole")
    names = {"sft": set(), "kto": {"kl"}}.get(objective, {"accuracy", "margin"})
    assert set(metrics(tmp_path / "run")[0]) == {"step", "loss", "gradient_norm", "learning_rate", *names}
    assert [line["step"] for line in metrics(tmp_path / "run")] == [1, 10, 12]
    batches = -(-ROWS // 4)
    assert len(measured) == batches * (objective in ("dpo", "kto")), "the reference is measured once"


def test_a_finished_run_is_only_read(tmp_path, killed_before):
    whole = run("orpo", tmp_path)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    killed_before(1)
    assert leaves(run("orpo", tmp_path)) == leaves(whole)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize("objective", ["dpo", "kto"])
def test_the_reference_is_the_policy_that_training_starts_from(tmp_path, objective):
    task = make_task(objective)
    run(objective, tmp_path, task=task)
    kept = np.load(tmp_path / "reference.npy")
    assert (kept.dtype, kept.shape) == (np.float32, (ROWS, 2))
    chances = jax.nn.log_softmax(np.float64(task.trainable["w"]) + task.frozen["bias"])
    packed = task.packed
    for row, (first, start, length) in enumerate(zip(packed.first, packed.starts, packed.lengths, strict=True)):
        for text in range(2):
            ids = packed.ids[first[text] : first[text] + length[text]]
            wanted = sum(chances[ids[t - 1], ids[t]] for t in range(start[text], length[text]))
            assert kept[row, text] == pytest.approx(float(wanted), rel=1e-5)


def test_a_reference_that_is_not_of_this_run_is_refused(tmp_path, killed_before):
    killed_before(2)
    with pytest.raises(Killed):
        run("dpo", tmp_path)
    for values in (np.zeros((3, 2), np.float32), np.zeros((ROWS, 2))):
        np.save(tmp_path / "reference.npy", values)
        with pytest.raises(InputError, match="not the log-probabilities of this run; remove"):
            run("dpo", tmp_path)
    (tmp_path / "reference.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(InputError, match="not the log-probabilities of this run; remove"):
        run("dpo", tmp_path)


def test_the_key_decides_the_order_and_every_epoch_has_its_own(killed_before):
    seen = killed_before(None)
    packed = make_task("sft").packed
    run("sft")
    firsts = [int(packed.ids[packed.first[i, 0]]) for i in range(ROWS)]
    orders = []
    for epoch in range(2):
        order = epoch_order(stream(KEY, "training order"), epoch, ROWS)
        tokens = np.concatenate([rows[:, 0, 0] for _, rows in seen[6 * epoch : 6 * epoch + 6]])
        assert tokens[:ROWS].tolist() == [firsts[i] for i in order]
        orders.append(order.tolist())
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(ROWS))
    one, again, other = run("sft"), run("sft"), run("sft", key=jax.random.key(4))
    assert leaves(one) == leaves(again)
    assert leaves(one) != leaves(other)


@pytest.mark.parametrize(
    ("changes", "task", "names"),
    [
        ({"learning_rate": 2e-2}, {}, "learning_rate"),
        ({"epochs": 3, "clip": 0.5}, {}, "clip, epochs"),
        ({"identity": {"seed": 2}}, {}, "seed"),
        ({}, {"trainable": tiny.bigram_arrays(1)[0]}, "start"),
        ({}, {"frozen": tiny.bigram_arrays(1)[1]}, "base"),
        ({}, {"packed": tiny.make_packed("kto", ROWS, seed=1)}, "rows"),
        ({}, {"desirable": np.arange(ROWS) % 2 > 0}, "rows"),
    ],
)
def test_another_run_is_refused_by_what_differs(tmp_path, killed_before, changes, task, names):
    killed_before(8)
    with pytest.raises(Killed):
        run("kto", tmp_path, identity={"seed": 1})
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    killed_before(1)
    with pytest.raises(InputError) as caught:
        run("kto", tmp_path, task=make_task("kto", **task), **{"identity": {"seed": 1}, **changes})
    assert str(caught.value) == (
        f"{tmp_path}: contains a training run with a different {names}; remove it or name another output"
    )
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_another_key_is_refused(tmp_path):
    run("sft", tmp_path)
    with pytest.raises(InputError, match="its checkpoint was made with another seed"):
        run("sft", tmp_path, key=jax.random.key(4))


def test_how_often_it_saves_may_change(tmp_path, killed_before):
    whole = run("sft")
    killed_before(8)
    with pytest.raises(Killed):
        run("sft", tmp_path)
    seen = killed_before(None)
    seen.clear()
    assert leaves(run("sft", tmp_path, save_every=0)) == leaves(whole)
    assert seen[0][0] == 7


def test_a_damaged_checkpoint_is_said(tmp_path):
    run("sft", tmp_path)
    for file in (tmp_path / "checkpoints" / "12").rglob("*"):
        if file.is_file() and file.stat().st_size > 200:
            file.write_bytes(b"x" * 300)
    with pytest.raises(InputError, match=r"checkpoint 12 cannot be read \(.*\); remove the folder to start over"):
        run("sft", tmp_path)


def test_a_loss_that_is_no_number_ends_the_run_and_saves_nothing(tmp_path):
    task = make_task("sft", frozen={"bias": np.full(tiny.VOCABULARY, np.nan, np.float32)})
    with pytest.raises(InputError, match="the loss is nan at step 1; lower the learning rate or check the data"):
        run("sft", tmp_path, task=task, save_every=1)
    assert not (tmp_path / "metrics.jsonl").exists()
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_a_run_that_goes_astray_keeps_what_was_sound(tmp_path):
    for _ in range(2):  # the second goes on from the sound state
        with pytest.raises(InputError, match=r"the (loss|gradient norm) is (nan|inf) at step 2;"):
            run("sft", tmp_path, learning_rate=3e38, save_every=1)
        assert [line["step"] for line in metrics(tmp_path)] == [1]
        assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["1"]


def test_a_full_disk_is_said_and_the_last_checkpoint_stays(tmp_path, monkeypatch):
    whole = run("sft")
    check, calls = folders.check_space, []

    def full(folder, size):
        calls.append(size)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device", str(folder))
        check(folder, size)

    monkeypatch.setattr(folders, "check_space", full)
    with pytest.raises(InputError, match="no space left on the device; free some or name another output"):
        run("sft", tmp_path)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["3", "6"]
    assert leaves(run("sft", tmp_path)) == leaves(whole)
    assert min(calls) >= 3 * 4 * tiny.VOCABULARY**2  # weights and two moments


def test_what_training_starts_from_is_not_changed():
    task = make_task("sft")
    task = task._replace(trainable=jax.tree.map(jnp.asarray, task.trainable))
    before = leaves(task.trainable)
    state = run("sft", task=task)
    assert leaves(task.trainable) == before
    assert leaves(state.trainable) != before


@pytest.mark.parametrize(
    ("objective", "task", "message"),
    [
        ("dpo", make_task("sft"), "objective dpo takes rows of 2 texts, found 1"),
        ("sft", make_task("dpo"), "objective sft takes rows of 1 texts, found 2"),
        ("kto", make_task("dpo"), "objective kto needs a desirable flag for each of the 22 rows"),
    ],
)
def test_rows_of_another_objective_are_refused(tmp_path, objective, task, message):
    with pytest.raises(InputError, match=message):
        run(objective, tmp_path / "run", task=task)
    assert not (tmp_path / "run").exists()


def test_settings_are_checked_before_anything_is_made(tmp_path):
    with pytest.raises(InputError, match="learning_rate is 0"):
        run("sft", tmp_path / "run", learning_rate=0.0)
    assert not (tmp_path / "run").exists()


def test_training_lowers_the_loss_at_the_rates_that_are_logged(tmp_path):
    run("sft", tmp_path, epochs=10, learning_rate=0.2)
    lines = metrics(tmp_path)
    assert lines[-1]["loss"] < 0.5 * lines[0]["loss"]
    rates = [line["learning_rate"] for line in lines]
    wanted = [0.1 * (1 + np.cos(np.pi * (line["step"] - 1) / 60)) for line in lines]
    np.testing.assert_allclose(rates, wanted, rtol=1e-4)
    assert [line["step"] for line in lines] == [1, 10, 20, 30, 40, 50, 60]
