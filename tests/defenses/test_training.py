"""Defenses before and during the fine-tuning, against the arithmetic of their papers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nlsr_jax.data.batching import pack
from nlsr_jax.data.examples import Encoded, Example
from nlsr_jax.defenses.booster import Booster
from nlsr_jax.defenses.constrained_sft import ConstrainedSft, token_weights
from nlsr_jax.defenses.lisa import Lisa
from nlsr_jax.defenses.repnoise import RepNoise, squared_mmd
from nlsr_jax.defenses.vaccine import Vaccine
from nlsr_jax.defenses.vlguard import mix_guides
from nlsr_jax.errors import InputError
from nlsr_jax.models.lora import expand
from nlsr_jax.models.token_log_probabilities import layer_log_probabilities, token_log_probabilities
from nlsr_jax.training import loop
from nlsr_jax.training.methods import text_rows
from nlsr_jax.training.step import TrainState, adapter_forward, make_step
from tests.training import tiny

PLAIN = optax.sgd(1.0)  # what a step takes away is the gradient
SETTINGS = tiny.settings("sft", batch_size=8)
# Sums of some hundred float32 terms, in another order.
CLOSE = {"rtol": 2e-4, "atol": 2e-6}


def gradient(method, forward, trainable, frozen, rows, settings=SETTINGS):
    """The gradient of one step, and its metrics."""
    optimizer = method.optimizer(PLAIN, 10)
    before = jax.tree.map(lambda leaf: jnp.array(leaf, jnp.float32), trainable)
    state = TrainState(jnp.zeros((), jnp.int32), before, optimizer.init(before))
    after, metrics = make_step(forward, optimizer, settings, method)(state, frozen, rows)
    return jax.tree.map(lambda x, y: np.asarray(x) - np.asarray(y), trainable, after.trainable), metrics


def token_mean(forward, trainable, frozen, rows, text=0):
    """The mean negative log-likelihood of the response tokens of one text."""
    values = forward(trainable, frozen, jnp.asarray(rows.tokens[:, text]))
    mask = rows.response[:, text, 1:]
    return -jnp.sum(jnp.where(mask, values, 0.0)) / mask.sum()


def assert_near(one, two):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **CLOSE), one, two)


def llama():
    model, params = tiny.llama()
    adapter = tiny.adapter(modules=tiny.FEW)
    return adapter_forward(model, adapter), adapter.factors, params


# Constrained SFT


def with_reference(rows, seed=5):
    rng = np.random.default_rng(seed)
    shape = (*rows.tokens.shape[:2], rows.tokens.shape[2] - 1)
    return rows._replace(reference=rng.normal(-3, 1, shape).astype(np.float32))


@pytest.mark.parametrize("loss", ["token", "sequence"])
def test_constrained_sft_is_the_gradient_of_the_papers_loss(loss):
    rows = with_reference(tiny.make_rows("sft"))
    trainable, frozen = tiny.bigram_arrays()
    mask = rows.response[:, 0, 1:]
    place = np.cumsum(mask, axis=1) - 1
    beta = np.select([place == 0, place < 5], [0.5, 2.0], 0.1)
    share = mask / (mask.sum() if loss == "token" else len(mask) * mask.sum(axis=1, keepdims=True))

    def paper(trainable):
        ratio = tiny.bigram(trainable, frozen, rows.tokens[:, 0]) - rows.reference[:, 0]
        return jnp.sum(-2 / beta * jax.nn.log_sigmoid(beta * ratio) * share)

    settings = dataclasses.replace(SETTINGS, loss=loss)
    found, _ = gradient(ConstrainedSft(), tiny.bigram, trainable, frozen, rows, settings)
    assert_near(found, jax.grad(paper)(trainable))


def test_tokens_far_above_the_reference_keep_a_little_weight():
    one = jnp.ones((1, 7))
    weights = token_weights(100 * one, 0 * one, jnp.ones((1, 7), bool), (0.5, 2.0, 2.0, 2.0, 2.0), 0.1)
    np.testing.assert_allclose(weights, 1e-3)
    weights = token_weights(10 * one, 0 * one, jnp.ones((1, 7), bool), (0.5, 2.0, 2.0, 2.0, 2.0), 0.1)
    np.testing.assert_allclose(
        weights[0], [2 / (1 + np.exp(5)), *4 * [1e-3], *2 * [2 / (1 + np.exp(1))]], rtol=1e-4
    )
    np.testing.assert_allclose(token_weights(one, one, jnp.ones((1, 7), bool), (0.5,), 0.1), 1.0)


def test_the_loop_gives_constrained_sft_the_starts_token_log_probabilities():
    seen = []

    @dataclasses.dataclass(frozen=True)
    class Watched(ConstrainedSft):
        def gradient(self, forward, settings):
            inner = super().gradient(forward, settings)

            def watched(trainable, frozen, rows, weights, step):
                jax.debug.callback(
                    lambda *found: seen.append(found), step, rows.tokens, rows.reference, ordered=True
                )
                return inner(trainable, frozen, rows, weights, step)

            return watched

    trainable, frozen = tiny.bigram_arrays()
    task = loop.Task(tiny.bigram, trainable, frozen, tiny.make_packed("sft", 10), method=Watched())
    loop.train(jax.random.key(0), task, tiny.settings("sft", epochs=1))
    jax.effects_barrier()
    assert len(seen) == 3
    for _, tokens, reference in seen:
        own = np.asarray(tiny.bigram(trainable, frozen, tokens[:, 0]))
        inside = tokens[:, 0, 1:] > 0
        np.testing.assert_allclose(reference[:, 0][inside], own[inside], rtol=1e-5, atol=1e-5)


# Lisa


def test_lisa_alternates_and_pulls_to_where_the_other_ended():
    method = Lisa(safe_steps=2, customer_steps=3, rho=0.4, free_share=0.1)
    rows = tiny.make_rows("dpo")  # two texts
    trainable, frozen = tiny.bigram_arrays()
    rate, steps = 0.5, 20
    optimizer = method.optimizer(optax.sgd(rate), steps)
    state = TrainState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.array, trainable), optimizer.init(trainable))
    step = make_step(tiny.bigram, optimizer, SETTINGS, method)
    of_text = [jax.jit(jax.grad(lambda w, i=i: token_mean(tiny.bigram, w, frozen, rows, i))) for i in (0, 1)]
    w = np.asarray(trainable["w"])
    anchors = {"safe": w, "customer": w}
    for number in range(12):
        turn = "safe" if number % 5 < 2 else "customer"
        if number and number % 5 in (0, 2):
            anchors["customer" if turn == "safe" else "safe"] = w
        pull = 0.4 * (w - anchors["customer" if turn == "safe" else "safe"]) if number >= 2 else 0.0
        w = w - rate * (np.asarray(of_text[turn == "safe"]({"w": w})["w"]) + pull)
        state, _ = step(state, frozen, rows)
        np.testing.assert_allclose(state.trainable["w"], w, rtol=1e-4, atol=1e-5)


def test_lisa_runs_in_the_loop_and_goes_on_after_an_end(tmp_path):
    trainable, frozen = tiny.bigram_arrays()
    settings = tiny.settings("sft", epochs=2, save_every=1)
    task = loop.Task(
        tiny.bigram, trainable, frozen, tiny.make_packed("dpo", 10), method=Lisa(safe_steps=1, customer_steps=2)
    )
    whole = loop.train(jax.random.key(0), task, settings)
    again = loop.train(jax.random.key(0), task, settings, folder=tmp_path)
    jax.tree.map(np.testing.assert_array_equal, whole, again)
    other = task._replace(method=Lisa(safe_steps=1, customer_steps=3))
    with pytest.raises(InputError, match="another method"):
        loop.train(jax.random.key(0), other, settings, folder=tmp_path)


# Booster


def test_booster_is_the_three_gradients():
    rows = tiny.make_rows("dpo")
    trainable, frozen = tiny.bigram_arrays()
    safe, harmful = (jax.grad(lambda w, i=i: token_mean(tiny.bigram, w, frozen, rows, i)) for i in (0, 1))
    h = harmful(trainable)["w"]
    after = harmful({"w": trainable["w"] - 0.3 * h / np.linalg.norm(h)})["w"]
    found, metrics = gradient(Booster(strength=5.0, step=0.3), tiny.bigram, trainable, frozen, rows)
    np.testing.assert_allclose(found["w"], safe(trainable)["w"] + 5 * (h - after), **CLOSE)
    assert float(metrics["loss"]) == pytest.approx(
        float(token_mean(tiny.bigram, trainable, frozen, rows)), rel=1e-5
    )
    expected = float(token_mean(tiny.bigram, trainable, frozen, rows, 1))
    assert float(metrics["harmful_loss"]) == pytest.approx(expected, rel=1e-5)


# Vaccine


def test_vaccine_takes_the_gradient_under_the_worst_perturbation():
    forward, factors, params = llama()
    rows = tiny.make_rows("sft")
    mask = rows.response[:, 0, 1:]

    @jax.jit
    def loss(probes, factors):
        values = forward(factors, params, jnp.asarray(rows.tokens[:, 0]), probes=probes)
        return -jnp.sum(jnp.where(mask, values, 0.0)) / mask.sum()

    zero = forward.probes(rows.tokens[:, 0])
    assert zero.shape == (2, 8, 14, 32)
    g = np.asarray(jax.jit(jax.grad(loss))(zero, factors))
    worst = 1.5 * g / np.linalg.norm(g)
    found, metrics = gradient(Vaccine(rho=1.5), forward, factors, params, rows)
    assert float(metrics["loss"]) == pytest.approx(float(loss(worst, factors)), rel=1e-4)
    assert float(metrics["loss"]) > float(loss(zero, factors)) + 0.1
    assert_near(found, jax.jit(jax.grad(loss, argnums=1))(worst, factors))


# RepNoise


def mmd(first, second):
    """Float64, kernel by kernel."""
    points = np.concatenate([first, second]).astype(np.float64)
    distances = ((points[:, None] - points[None]) ** 2).sum(-1)
    count = len(points)
    width = distances.sum() / (count**2 - count) / 4
    kernel = sum(np.exp(-distances / (width * 2.0**i)) for i in range(5))
    n = len(first)
    return (kernel[:n, :n] + kernel[n:, n:] - kernel[:n, n:] - kernel[n:, :n]).mean()


def test_mmd_is_the_sum_over_kernels():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(6, 40)), rng.normal(0.5, 2, size=(6, 40))
    assert float(squared_mmd(jnp.asarray(first), jnp.asarray(second))) == pytest.approx(
        mmd(first, second), rel=1e-5
    )
    assert float(squared_mmd(jnp.asarray(first), jnp.asarray(first))) == pytest.approx(0, abs=1e-6)
    assert float(squared_mmd(jnp.zeros((3, 2)), jnp.zeros((3, 2)))) == 0.0


def test_layers_speak_through_the_last_norm_and_the_head():
    model, params = tiny.llama()
    lora = expand(tiny.adapter(modules=tiny.FEW), 2)
    tokens = tiny.make_rows("sft").tokens[:, 0]
    layers = jax.jit(lambda lora, tokens: layer_log_probabilities(model, params, lora, tokens))
    found, feed_forward = layers(lora, tokens)
    assert found.shape == (3, 8, 13)
    assert feed_forward.shape == (2, 8, 14, 32)
    own = jax.jit(lambda lora, tokens: token_log_probabilities(model, params, lora, tokens))(lora, tokens)
    np.testing.assert_allclose(found[-1], own, rtol=1e-5, atol=1e-5)  # two programs of one formula
    hidden = np.asarray(params["embed"], np.float64)[tokens]
    hidden = hidden / np.sqrt((hidden**2).mean(-1, keepdims=True) + model.config.eps)
    logits = hidden * np.asarray(params["norm"]["scale"]) @ np.asarray(params["lm_head"], np.float64).T
    logits = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = np.take_along_axis(logits[:, :-1], tokens[:, 1:, None], axis=-1)[..., 0]
    np.testing.assert_allclose(found[0], expected, rtol=1e-4, atol=1e-4)


def test_repnoise_is_the_sum_of_its_terms():
    forward, factors, params = llama()
    rows = tiny.make_rows("dpo")
    method = RepNoise(ascent=0.7, noise=0.2, seed=3)
    _, metrics = gradient(method, forward, factors, params, rows)
    harmful = jnp.asarray(rows.tokens[:, 1])
    found = jax.jit(forward.representations)(factors, params, harmful)
    mask = rows.response[:, 1, 1:]
    entropy = [-float(np.where(mask, layer, 0).sum()) / mask.sum() for layer in found.log_probabilities]
    harm = (entropy[-1] + sum(entropy)) / 3 + 1
    differs = (rows.tokens[:, 1] != rows.tokens[:, 0]) & rows.response[:, 1]
    key = jax.random.fold_in(jax.random.key(3), 0)
    discrepancy = []
    for layer, output in enumerate(found.feed_forward):
        noise = jax.random.normal(jax.random.fold_in(key, layer), output.shape)
        parts = [np.where(differs[..., None], part, 0).reshape(8, -1) for part in (output, noise)]
        discrepancy.append(mmd(*parts))
    safe = float(jax.jit(lambda f: token_mean(forward, f, params, rows))(factors))
    expected = safe + 0.2 * np.mean(discrepancy) - 0.7 * np.log(harm)
    assert float(metrics["loss"]) == pytest.approx(expected, rel=1e-4)
    assert float(metrics["harmful_loss"]) == pytest.approx(entropy[-1], rel=1e-4)
    assert float(metrics["discrepancy"]) == pytest.approx(np.mean(discrepancy), rel=1e-3)


@pytest.mark.long
@pytest.mark.parametrize("method", [RepNoise(seed=1), Booster(), Vaccine()])
def test_training_lowers_the_loss_on_safe_rows(method):
    forward, factors, params = llama()
    rng = np.random.default_rng(0)
    texts = [
        tuple(Encoded(rng.integers(1, 9, 12).astype(np.int32), 4) for _ in range(method.texts)) for _ in range(8)
    ]
    task = loop.Task(forward, factors, params, pack(texts), method=method)
    rows = text_rows(tiny.make_rows("sft"), 0)._replace(
        tokens=np.stack([t[0].ids for t in texts])[:, None], response=np.arange(12) >= np.full((8, 1, 1), 4)
    )
    before = float(token_mean(forward, factors, params, rows))
    state = loop.train(jax.random.key(0), task, tiny.settings("sft", epochs=10, max_length=12))
    assert float(token_mean(forward, state.trainable, params, rows)) < before - 0.1


def test_methods_of_whole_batches_refuse_parts():
    forward, factors, params = llama()
    task = loop.Task(forward, factors, params, tiny.make_packed("sft"), method=Vaccine())
    with pytest.raises(InputError, match="method Vaccine needs whole batches; accumulate is 2"):
        loop.train(jax.random.key(0), task, tiny.settings("sft", accumulate=2))
    task = task._replace(method=Booster())
    with pytest.raises(InputError, match="method Booster takes rows of 2 texts, found 1"):
        loop.train(jax.random.key(0), task, tiny.settings("sft"))


# VLGuard


def examples(kind, count):
    return [Example(f"{kind} {i}", "x", kind=kind) for i in range(count)]


def test_guides_take_the_place_of_harmless_rows_at_random():
    rows = examples("task", 90) + examples("harmful", 10)
    mixed = mix_guides(jax.random.key(0), rows, examples("safe", 30), guide_share=0.2)
    assert len(mixed) == 100
    assert mixed[90:] == rows[90:]
    places = [i for i, row in enumerate(mixed) if row.kind == "safe"]
    assert [mixed[i].prompt for i in places] != [f"safe {i}" for i in range(20)] or places != list(range(20))
    assert {mixed[i].prompt for i in places} == {f"safe {i}" for i in range(20)}
    assert all(mixed[i] == rows[i] for i in range(100) if i not in places)
    assert mixed == mix_guides(jax.random.key(0), rows, examples("safe", 30), guide_share=0.2)
    assert mixed != mix_guides(jax.random.key(1), rows, examples("safe", 30), guide_share=0.2)


@pytest.mark.parametrize(("guides", "task"), [(5, 90), (30, 15)])
def test_too_few_guides_or_harmless_rows_are_refused(guides, task):
    rows = examples("task", task) + examples("harmful", 100 - task)
    with pytest.raises(InputError, match="replaces 20 harmless rows with guides"):
        mix_guides(jax.random.key(0), rows, examples("safe", guides), guide_share=0.2)
