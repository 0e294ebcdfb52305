"""The objectives against float64 formulas, at the ends of their range too."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nlsr_jax.training.objectives import (
    dpo_loss,
    kto_loss,
    log1mexp,
    means,
    odds_ratio_loss,
    simpo_loss,
    sums_and_counts,
)

INF = np.inf
# Two float32 roundings of the arguments' difference, and the functions' own.
CLOSE = {"rtol": 2e-6, "atol": 1e-6}


def log_sigmoid(x):
    return -np.logaddexp(0, -np.float64(x))


def draw(count, seed, low=-60.0, high=-0.01):
    return np.random.default_rng(seed).uniform(low, high, count).astype(np.float32)


def gradients(loss, *arguments):
    """Gradient with respect to the first two arguments of a sum of losses."""
    return jax.grad(lambda *x: loss(*x).sum(), argnums=(0, 1))(*(jnp.asarray(x, jnp.float32) for x in arguments))


def test_log1mexp_is_exact_from_certain_to_impossible():
    x = -np.concatenate([np.logspace(-37, 2, 400), [np.log(2), 0.6931, 0.6932]]).astype(np.float32)
    wide = np.float64(x)
    expected = [math.log(-math.expm1(v)) if v > -1 else math.log1p(-math.exp(v)) for v in wide]
    np.testing.assert_allclose(log1mexp(x), expected, rtol=1e-6, atol=1e-37)  # 1e-37: where float32 ends


def test_log1mexp_has_the_gradient_of_the_formula():
    x = -np.logspace(-30, 1.9, 200).astype(np.float32)
    wide = np.float64(x)
    gradient = jax.vmap(jax.grad(log1mexp))(jnp.asarray(x))
    np.testing.assert_allclose(gradient, np.exp(wide) / np.expm1(wide), rtol=1e-5)


def test_log1mexp_at_its_ends():
    assert float(log1mexp(jnp.float32(0))) == -INF
    assert float(log1mexp(jnp.float32(-INF))) == 0
    assert float(jax.grad(log1mexp)(jnp.float32(-INF))) == 0
    assert float(jax.grad(log1mexp)(jnp.float32(-1000))) == 0


def test_sums_means_and_counts():
    values, mask = draw(40, 0).reshape(4, 10), np.random.default_rng(1).random((4, 10)) < 0.5
    mask[2] = False
    sums, counts = sums_and_counts(values, mask)
    np.testing.assert_allclose(sums, np.where(mask, np.float64(values), 0).sum(1), rtol=1e-6)
    assert counts.dtype == jnp.float32
    assert counts.tolist() == mask.sum(1).tolist()
    expected = [row[keep].mean() if keep.any() else 0 for row, keep in zip(np.float64(values), mask, strict=True)]
    np.testing.assert_allclose(means(values, mask), expected, rtol=1e-6)


@pytest.mark.parametrize("outside", [np.nan, INF, -INF])
def test_what_is_outside_the_response_does_not_count(outside):
    mask = np.array([[False, True, True, False], [False] * 4])
    values = np.where(mask, -1.5, outside).astype(np.float32)
    assert means(values, mask).tolist() == [-1.5, 0]
    gradient = jax.grad(lambda x: means(x, mask).sum())(jnp.asarray(values))
    assert gradient.tolist() == [[0, 0.5, 0.5, 0], [0] * 4]


@pytest.mark.parametrize("beta", [0.05, 0.1, 2.0])
def test_dpo(beta):
    c, r, c_ref, r_ref = (draw(50, seed) for seed in range(4))
    wide = [np.float64(x) for x in (c, r, c_ref, r_ref)]
    expected = -log_sigmoid(beta * ((wide[0] - wide[1]) - (wide[2] - wide[3])))
    np.testing.assert_allclose(dpo_loss(c, r, c_ref, r_ref, beta=beta), expected, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize(("beta", "gamma"), [(2.0, 1.0), (0.1, 0.5), (2.5, 0.0)])
def test_simpo(beta, gamma):
    c, r = draw(50, 0, -6), draw(50, 1, -6)
    expected = -log_sigmoid(beta * (np.float64(c) - np.float64(r)) - gamma)
    np.testing.assert_allclose(simpo_loss(c, r, beta=beta, gamma=gamma), expected, **CLOSE)


@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_odds_ratio(beta):
    c, r = draw(50, 0, -6), draw(50, 1, -6)
    odds = [np.exp(np.float64(x)) / (1 - np.exp(np.float64(x))) for x in (c, r)]
    expected = -beta * log_sigmoid(np.log(odds[0] / odds[1]))
    np.testing.assert_allclose(odds_ratio_loss(c, r, beta=beta), expected, **CLOSE)


def test_kto():
    policy, reference = draw(50, 0), draw(50, 1)
    desirable, z = np.random.default_rng(2).random(50) < 0.5, 1.25
    margin = 0.2 * (np.float64(policy) - reference - z)
    expected = np.where(desirable, 3 * (1 - 1 / (1 + np.exp(-margin))), 0.5 * (1 - 1 / (1 + np.exp(margin))))
    weights = {"desirable_weight": 3.0, "undesirable_weight": 0.5}
    found = kto_loss(policy, reference, desirable, np.float32(z), beta=0.2, **weights)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_losses_far_out_are_finite_and_so_are_their_gradients():
    c, r = (
        np.array([0, -1e4, 0, -1e4, -50, -1e-6], np.float32),
        np.array([-1e4, 0, 0, -1e4, -1e-6, -50], np.float32),
    )
    zero = np.zeros_like(c)
    dpo = dpo_loss(c, r, zero, zero, beta=0.1)
    # Beyond any float32 exponential the loss is the margin itself, or nothing.
    np.testing.assert_allclose(dpo[:4], [0, 1000, np.log(2), np.log(2)], rtol=1e-6)
    flags = jnp.arange(len(c)) % 2 == 0
    for loss in (
        lambda x, y: dpo_loss(x, y, zero, zero),
        simpo_loss,
        odds_ratio_loss,
        lambda x, y: kto_loss(x, y, flags, 0.0),
        lambda x, y: kto_loss(x, y, ~flags, 5.0),
    ):
        assert np.isfinite(loss(c, r)).all()
        assert all(np.isfinite(gradient).all() for gradient in gradients(loss, c, r))


def test_the_odds_of_a_certain_answer_are_finite():
    """In float32 a model that is sure of a one-word answer gives it a log-probability of exactly 0."""
    certain, other = np.zeros(1, np.float32), np.float32([-3])
    assert 0 <= float(odds_ratio_loss(certain, other)[0]) < 1e-6
    assert float(odds_ratio_loss(certain, certain)[0]) == pytest.approx(0.1 * np.log(2))
    assert 1 < float(odds_ratio_loss(other, certain)[0]) < 3  # 0.1 × (3 + the log odds of the nearest to 1)
    for pair in ((certain, other), (certain, certain), (other, certain)):
        assert all(np.isfinite(gradient).all() for gradient in gradients(odds_ratio_loss, *pair))
