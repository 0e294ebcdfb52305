"""Passes that runs in several threads make together, and fleets whose adapters run at the same time."""

import dataclasses
import json
import threading

import jax
import numpy as np
import pytest

from nlsr_jax import hardware
from nlsr_jax.calibration.loss import sum_each_gradient, sum_loss_gradients
from nlsr_jax.data import calibration
from nlsr_jax.errors import InputError
from nlsr_jax.fleet.folder import FleetFolder
from nlsr_jax.fleet.running import Fleet, Outcome
from nlsr_jax.fleet.tasks import Task
from nlsr_jax.formats.peft import load_adapter, save_adapter
from nlsr_jax.models.llama import Llama
from nlsr_jax.pipeline import base_model, realign_files
from nlsr_jax.pipeline.choosing import Refinement
from nlsr_jax.pipeline.passes import Stopped, Together, _Request
from nlsr_jax.training.initial import new_params
from tests.oracles import random_adapter
from tests.pipeline.test_refining import SHIPPED, rows, settings
from tests.reliability.jobs import fingerprint
from tests.training import tiny

__all__ = ["rows"]


def serve(log):
    def made(given):
        log.append(list(given))
        if "bad" in given and len(set(given)) > 1:
            raise ValueError("one of them is bad")
        return [f"made {one}" for one in given]

    return made


def alone(name):
    if name == "bad":
        raise InputError("bad itself")
    return f"alone {name}"


def ask(together, name, log, key="k"):
    return together._ask(_Request(key, name, serve(log), lambda: alone(name)))


def in_threads(together, runs):
    """Run functions in threads that take part; returns what each returned or raised."""
    found = {}
    begun = threading.Barrier(len(runs))

    def one(name, run):
        with together.taking_part():
            begun.wait()
            try:
                found[name] = run()
            except BaseException as error:
                found[name] = error

    threads = [threading.Thread(target=one, args=pair) for pair in runs.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a run waits for ever"
    return found


def test_runs_that_ask_for_the_same_share_a_pass_and_others_wait_their_turn():
    together, log = Together(4), []

    def twice(name):
        return lambda: [ask(together, name, log), ask(together, name, log)]

    found = in_threads(together, {name: twice(name) for name in "abc"})
    assert found == {name: [f"made {name}"] * 2 for name in "abc"}
    assert [sorted(set(given)) for given in log] == [["a", "b", "c"]] * 2
    assert all(len(given) == 4 for given in log), "a pass is not filled up"
    log.clear()
    runs = {name: lambda name=name: ask(together, name, log, key=name in "ab") for name in "abc"}
    assert in_threads(together, runs) == {name: f"made {name}" for name in "abc"}
    assert [sorted(set(given)) for given in log] == [["a", "b"], ["c"]]


def test_more_than_a_pass_holds_and_a_run_that_asks_for_nothing():
    together, log = Together(2), []
    runs = {name: lambda name=name: ask(together, name, log) for name in "abcde"}
    assert in_threads(together, {**runs, "idle": lambda: None})["e"] == "made e"
    assert [len(given) for given in log] == [2, 2, 2]
    assert ask(together, "later", log) == "made later"


def test_an_error_is_that_of_its_run_alone():
    together, log = Together(3), []
    runs = {name: lambda name=name: ask(together, name, log) for name in ("a", "bad", "b")}
    found = in_threads(together, runs)
    assert (found["a"], found["b"]) == ("alone a", "alone b")
    assert isinstance(found["bad"], InputError)


def test_an_interrupted_fleet_ends_its_runs():
    together, log = Together(2), []
    asked = threading.Event()

    def busy():
        asked.wait(60)
        together.stop()
        return "busy"

    def waiting():
        asked.set()
        return ask(together, "a", log)

    found = in_threads(together, {"waiting": waiting, "busy": busy})
    assert isinstance(found["waiting"], Stopped)
    assert log == []


@pytest.fixture(scope="module")
def tiny_case():
    model = Llama(tiny.CONFIG)
    batches = tuple(np.random.default_rng(0).integers(3, tiny.CONFIG.vocab_size, (2, 4, 16), np.int32))
    masks = np.arange(16) > np.array([6, 8, 4, 9])[:, None]
    sizes = {"q_proj": model.config.projections()["q_proj"]}
    adapters = [random_adapter(i, layers=model.config.num_layers, rank=3, sizes=sizes) for i in range(3)]
    return model, new_params(jax.random.key(0), model), adapters, [(tokens, masks) for tokens in batches]


def test_gradients_at_several_adapters_are_those_at_each(tiny_case):
    model, params, adapters, batches = tiny_case
    first = [sum_loss_gradients(model, params, one, batches[:1]) for one in adapters]
    expected = [
        sum_loss_gradients(model, params, *pair) for pair in zip(adapters, [batches[1:]] * 3, first, strict=True)
    ]
    found = sum_each_gradient(model, params, adapters, batches[1:], first)
    for ours, theirs in zip(found, expected, strict=True):
        for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            # Float32 sums over 64 positions in another order.
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5 * float(np.abs(other).max()))
    others = sum_each_gradient(model, params, [adapters[0], adapters[2], adapters[2]], batches[1:])
    same = sum_each_gradient(model, params, [adapters[0], adapters[1], adapters[1]], batches[1:])
    jax.tree.map(np.testing.assert_array_equal, others[0], same[0])


def test_adapters_of_other_structures_are_refused(tiny_case):
    model, params, adapters, batches = tiny_case
    other = random_adapter(9, layers=model.config.num_layers, rank=2, sizes={"q_proj": (32, 32)})
    with pytest.raises(InputError, match="adapter 1"):
        sum_each_gradient(model, params, [adapters[0], other], batches)


@pytest.fixture(scope="module")
def customers(tmp_path_factory):
    """Two adapters of the tiny base that need different shares."""
    folder = tmp_path_factory.mktemp("customers")
    first = load_adapter(SHIPPED / "finetuned_sst2")
    aligned = load_adapter(SHIPPED / "dpo")
    factors = jax.tree.map(lambda a, f: a + 0.8 * (f - a), aligned.factors, first.factors)
    save_adapter(first, folder / "first")
    save_adapter(dataclasses.replace(first, factors=factors), folder / "second")
    return folder


def refined_tasks(customers, rows):
    options = {"refine": Refinement(if_possible=True), "preset": "recommended"}
    paths = {name: str(customers / name) for name in ("first", "second")}
    return [Task(name, path, settings(rows, finetuned=path, weak=None), options) for name, path in paths.items()]


def run(folder, tasks, **options):
    outcomes = Fleet(FleetFolder(folder), "one", **options).run(tasks)
    assert [one.error for one in outcomes] == [None] * len(tasks)


def count_calls(monkeypatch, place, name):
    """Count the calls of a function."""
    calls, function = [], getattr(place, name)

    def counted(*arguments, **options):
        calls.append(name)
        return function(*arguments, **options)

    monkeypatch.setattr(place, name, counted)
    return calls


@pytest.mark.long
def test_refined_adapters_at_the_same_time_are_those_of_runs_of_their_own(customers, rows, tmp_path, monkeypatch):
    tasks = refined_tasks(customers, rows)
    alone = realign_files(tasks[1].settings, tmp_path / "alone", **tasks[1].options)
    loaded = count_calls(monkeypatch, base_model, "load_base")
    read = count_calls(monkeypatch, calibration, "load_calibration")
    run(tmp_path / "fleet", tasks, together=2)
    assert (loaded, read) == (["load_base"], ["load_calibration"])
    assert fingerprint(tmp_path / "fleet" / "second") == fingerprint(tmp_path / "alone")
    ours = json.loads((tmp_path / "fleet" / "second" / "realignment.json").read_text())
    assert ours["refinement"] == json.loads(json.dumps(alone["refinement"]))
    shares = {
        json.loads(file.read_text())["refinement"]["share"] for file in tmp_path.glob("fleet/*/realignment.json")
    }
    assert len(shares) == 2, "the two adapters do not need different shares"


def test_outcomes_are_told_one_at_a_time(tmp_path, monkeypatch):
    """Each waits for a second one to be told meanwhile, which never comes."""
    monkeypatch.setattr(Fleet, "_settle", lambda self, task: Outcome(task))
    met, told = threading.Barrier(2), []

    def tell(outcome):
        told.append(outcome.task.output)
        with pytest.raises(threading.BrokenBarrierError):
            met.wait(0.1)

    names = ["a", "b", "c", "d"]
    Fleet(FleetFolder(tmp_path / "fleet"), "one", together=2).run([Task(n, n, None, {}) for n in names], tell)
    assert sorted(told) == names


@pytest.mark.long
def test_adapters_that_go_through_the_base_together_are_the_same_up_to_rounding(
    customers, rows, tmp_path, monkeypatch
):
    """As on an accelerator."""
    tasks = refined_tasks(customers, rows)
    run(tmp_path / "fleet", tasks, together=2)
    monkeypatch.setattr(hardware, "shares_passes", lambda: True)
    run(tmp_path / "passes", tasks, together=2)
    for name in ("first", "second"):
        one, other = (load_adapter(tmp_path / place / name) for place in ("fleet", "passes"))
        changed = [
            np.mean(x != y) for x, y in zip(*(jax.tree.leaves(a.factors) for a in (one, other)), strict=True)
        ]
        assert np.mean(changed) < 1e-3
