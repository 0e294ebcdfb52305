"""One optimiser step: parts of a batch, fillers, what is trained and what is not, how often it is traced."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nlsr_jax.adapter import delta
from nlsr_jax.training.optimizer import make_optimizer
from nlsr_jax.training.settings import OBJECTIVES
from nlsr_jax.training.step import TrainState, adapter_forward, make_step, model_forward, row_log_probabilities
from tests.training import tiny

PLAIN = optax.sgd(1.0)  # what a step takes away is the gradient


def start(trainable, optimizer):
    trainable = jax.tree.map(lambda leaf: jnp.array(leaf, jnp.float32), trainable)
    return TrainState(jnp.zeros((), jnp.int32), trainable, optimizer.init(trainable))


def bigram_step(settings, rows, optimizer=PLAIN):
    trainable, frozen = tiny.bigram_arrays()
    return make_step(tiny.bigram, optimizer, settings)(start(trainable, optimizer), frozen, rows)


def assert_near(one, two, **bounds):
    for first, second in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_allclose(first, second, **bounds)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_batch_in_parts_is_the_batch(objective):
    rows = tiny.fill_up(tiny.make_rows(objective, 7), 1)
    base = tiny.settings(objective, batch_size=8)
    state, metrics = bigram_step(base, rows)
    for parts in (4,) if objective != "kto" else (2, 8):
        other, found = bigram_step(dataclasses.replace(base, accumulate=parts), rows)
        assert_near(state, other, rtol=1e-5, atol=1e-6)  # float32 sums in another order
        assert_near(metrics, found, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("drift", "fillers"), [(-40, 3), (5, 0), (40, 5)])
def test_ktos_parts_share_the_distance_of_the_batch(drift, fillers):
    """Rows that are far from the reference in one part alone, parts of fillers, and a mean below zero."""
    rows = tiny.make_rows("kto", 8 - fillers)
    rows.reference[:, 1] -= np.where(np.arange(8 - fillers) < 2, drift, drift / 8)
    rows, base = tiny.fill_up(rows, fillers), tiny.settings("kto", batch_size=8)
    state, metrics = bigram_step(base, rows)
    assert (float(metrics["kl"]) > 0) == (drift > 0)
    for parts in (2, 4):
        other, found = bigram_step(dataclasses.replace(base, accumulate=parts), rows)
        assert_near(state.trainable, other.trainable, rtol=1e-5, atol=1e-6)
        for name in ("loss", "kl", "gradient_norm"):
            assert float(found[name]) == pytest.approx(float(metrics[name]), rel=1e-5)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_fillers_change_nothing(objective):
    rows = tiny.make_rows(objective, 5)
    base = tiny.settings(objective, batch_size=8)
    assert_near(bigram_step(base, rows), bigram_step(base, tiny.fill_up(rows, 3)), rtol=1e-5, atol=1e-6)


def test_a_part_of_fillers_alone_is_no_nan():
    for objective in OBJECTIVES:
        rows = tiny.fill_up(tiny.make_rows(objective, 2), 6)
        found = bigram_step(tiny.settings(objective, batch_size=8, accumulate=4), rows)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_metrics(accumulate):
    rows = tiny.fill_up(tiny.make_rows("dpo", 3), 1)
    settings = tiny.settings("dpo", accumulate=accumulate)
    before, _ = tiny.bigram_arrays()
    state, metrics = bigram_step(settings, rows)
    assert set(metrics) == {"loss", "gradient_norm", "accuracy", "margin"}
    norm = np.linalg.norm(np.float64(before["w"]) - state.trainable["w"])
    assert float(metrics["gradient_norm"]) == pytest.approx(norm, rel=1e-4)
    assert float(metrics["accuracy"]) * 3 == pytest.approx(round(float(metrics["accuracy"]) * 3))
    assert int(state.step) == 1


def test_the_gradient_norm_is_that_before_the_limit():
    rows = tiny.make_rows("sft", 4)
    settings = tiny.settings("sft", clip=1e-3)
    _, free = bigram_step(settings, rows)
    _, limited = bigram_step(settings, rows, make_optimizer(settings, 10))
    assert float(free["gradient_norm"]) == float(limited["gradient_norm"]) > 1e-2


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_step_is_traced_once(accumulate):
    traces = []

    def counted(*arguments):
        traces.append(1)
        return tiny.bigram(*arguments)

    settings = tiny.settings("orpo", accumulate=accumulate)
    trainable, frozen = tiny.bigram_arrays()
    optimizer = make_optimizer(settings, 5)
    step, state = make_step(counted, optimizer, settings), start(trainable, optimizer)
    state, _ = step(state, frozen, tiny.make_rows("orpo", 4))
    first = len(traces)
    for seed in range(1, 5):
        rows = tiny.make_rows("orpo", 4, seed=seed) if seed < 4 else tiny.fill_up(tiny.make_rows("orpo", 3), 1)
        state, _ = step(state, frozen, rows)
    assert len(traces) == first <= 2  # in parts, the shapes of the sums are looked up once more
    assert int(state.step) == 5


@functools.cache
def llama_case(objective):
    """``(model, params, adapter, rows)``."""
    model, params = tiny.llama()
    adapter = tiny.adapter() if objective == "sft" else tiny.adapter(modules=tiny.FEW)
    return model, params, adapter, tiny.make_rows(objective, 4)


@functools.cache
def llama_step(objective, dtype=jnp.float32, remat=False):
    """``(gradient of the adapter, metrics)``."""
    model, params, adapter, rows = llama_case(objective)
    forward = adapter_forward(dataclasses.replace(model, remat=remat), adapter, dtype)
    base = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
    state, metrics = make_step(forward, PLAIN, tiny.settings(objective))(start(adapter.factors, PLAIN), base, rows)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves((state.trainable, metrics)))
    return jax.tree.map(lambda old, new: np.asarray(old) - new, adapter.factors, state.trainable), metrics


def plain_loss(objective, factors, model, params, adapter, rows):
    """The loss by way of merged weights, all logits and one token after another."""
    merged = dict(params["layers"])
    for module, update in delta(dataclasses.replace(adapter, factors=factors)).items():
        merged[module] = {"kernel": merged[module]["kernel"] + update}
    flat = rows.tokens.reshape(-1, rows.tokens.shape[-1])
    chances = jax.nn.log_softmax(model.apply({"params": {**params, "layers": merged}}, flat))
    values = [
        sum(chances[i, t - 1, ids[t]] for t in range(len(ids)) if response[t])
        for i, (ids, response) in enumerate(zip(flat, rows.response.reshape(flat.shape), strict=True))
    ]
    if objective == "sft":
        return -sum(values) / rows.response.sum()
    against = (rows.reference @ [1, -1]).tolist()
    margins = [values[2 * i] - values[2 * i + 1] - reference for i, reference in enumerate(against)]
    return sum(jnp.logaddexp(0, -0.1 * margin) for margin in margins) / len(margins)


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["sft", "dpo"])
def test_the_adapters_gradient_is_that_of_the_plain_formula(objective):
    model, params, adapter, rows = llama_case(objective)
    before = jax.tree.map(np.array, (params, adapter.factors))
    gradient, metrics = llama_step(objective)
    plain = jax.value_and_grad(lambda factors: plain_loss(objective, factors, model, params, adapter, rows))
    loss, expected = jax.jit(plain)(adapter.factors)
    assert float(metrics["loss"]) == pytest.approx(float(loss), rel=1e-4)
    for one, two in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected), strict=True):
        # W x + B A x against (W + B A) x, and the gradient as a difference of weights.
        assert np.linalg.norm(one - two) < 1e-3 * np.linalg.norm(two)
        assert np.linalg.norm(two) > 1e-4
    pairs = zip(jax.tree.leaves(before), jax.tree.leaves((params, adapter.factors)), strict=True)
    assert all(old.tobytes() == np.asarray(new).tobytes() for old, new in pairs)


@pytest.mark.slow
def test_an_adapter_on_some_layers_trains_these():
    """Its gradient is that of an adapter on all layers whose other factors are zero."""
    model, params, adapter, rows = llama_case("sft")
    some = {name: {f: leaf[1:] for f, leaf in adapter.factors[name].items()} for name in ("q_proj", "down_proj")}
    part = dataclasses.replace(adapter, factors=some, layers=dict.fromkeys(some, (1,)))
    padded = jax.tree.map(lambda leaf: jnp.concatenate([jnp.zeros_like(leaf), leaf]), some)
    whole = dataclasses.replace(adapter, factors=padded)
    (found, loss), (expected, other) = [
        make_step(adapter_forward(model, x), PLAIN, tiny.settings("sft"))(start(x.factors, PLAIN), params, rows)
        for x in (part, whole)
    ]
    assert float(loss["loss"]) == pytest.approx(float(other["loss"]), rel=1e-6)
    upper = jax.tree.map(lambda leaf: leaf[1:], expected.trainable)
    assert jax.tree.map(jnp.shape, found.trainable) == jax.tree.map(jnp.shape, upper)
    assert_near(found.trainable, upper, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_remat_changes_no_step():
    assert_near(llama_step("dpo"), llama_step("dpo", remat=True), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_bfloat16_stays_near_and_trains_float32_weights():
    (exact, metrics), (rough, near) = llama_step("dpo"), llama_step("dpo", dtype=jnp.bfloat16)
    # Eight bits of mantissa through two layers.
    assert float(near["loss"]) == pytest.approx(float(metrics["loss"]), rel=0.05)
    assert float(near["gradient_norm"]) == pytest.approx(float(metrics["gradient_norm"]), rel=0.05)
    one, two = (np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(x)]) for x in (exact, rough))
    assert (one != two).any()
    assert one @ two > 0.98 * np.linalg.norm(one) * np.linalg.norm(two)


@pytest.mark.slow
def test_a_whole_model_is_trained():
    model, params, _, rows = llama_case("sft")
    step = make_step(model_forward(model), PLAIN, tiny.settings("sft"))
    state, metrics = step(start(params, PLAIN), None, rows)
    changed = jax.tree.map(lambda old, new: bool((old != new).any()), params, state.trainable)
    assert all(jax.tree.leaves(changed))
    again, better = step(state, None, rows)
    assert float(better["loss"]) < float(metrics["loss"])
    assert int(again.step) == 2


def test_rows_log_probabilities_come_text_by_text():
    trainable, frozen = tiny.bigram_arrays()
    rows = tiny.make_rows("dpo", 3)
    found = row_log_probabilities(tiny.bigram, trainable, frozen, rows.tokens)
    assert found.shape == (3, 2, rows.tokens.shape[-1] - 1)
    for text in range(2):
        np.testing.assert_array_equal(found[:, text], tiny.bigram(trainable, frozen, rows.tokens[:, text]))
