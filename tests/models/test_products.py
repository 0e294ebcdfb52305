"""Attention and adapted projections, with derivatives of their own, against the plain formulas and autodiff."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nlsr_jax.models import projection
from nlsr_jax.models.attention import BLOCK, attend
from nlsr_jax.models.projection import adapted, merge_adapter, merges, worth_merging

B, T, K, G, H = 2, 5, 3, 2, 4


def draw(seed, *shape, dtype=jnp.float32):
    return jax.random.normal(jax.random.key(seed), shape, dtype)


def plain_attention(q, k, v, mask):
    scores = jnp.einsum("btkgh,bksh->bkgts", q, k) * q.shape[-1] ** -0.5
    weights = jax.nn.softmax(jnp.where(mask[:, None, None], scores, -1e30), axis=-1)
    return jnp.einsum("bkgts,bksh->btkgh", weights, v)


@pytest.fixture
def heads():
    mask = jnp.tril(jnp.ones((T, T), bool)) & (jnp.arange(T) != 1)[None, None] | jnp.eye(T, dtype=bool)
    return draw(0, B, T, K, G, H), draw(1, B, K, T, H), draw(2, B, K, T, H), jnp.broadcast_to(mask, (B, T, T))


def assert_close(found, expected, tolerance=2e-6):
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


def test_attention_is_the_plain_formula(heads):
    q, k, v, mask = heads
    assert_close(attend(q, k, v, mask), plain_attention(q, k, v, mask))
    one = attend(q[:, 2:3], k, v, mask[:, 2:3])
    assert_close(one, plain_attention(q, k, v, mask)[:, 2:3])


def test_attention_has_the_plain_formulas_gradients(heads):
    *arrays, mask = heads
    weight = draw(3, B, T, K, G, H)

    def loss(function, arrays):
        return jnp.sum(weight * jnp.tanh(function(*arrays, mask)))

    found, expected = (jax.jit(jax.grad(lambda x, f=f: loss(f, x)))(arrays) for f in (attend, plain_attention))
    assert_close(found, expected)


@pytest.mark.parametrize("length", [BLOCK, 2 * BLOCK, 3 * BLOCK + 1])
def test_long_sequences_go_by_blocks(length):
    q, k, v = draw(0, 1, length, K, G, H), draw(1, 1, K, length, H), draw(2, 1, K, length, H)
    pads = jnp.arange(length) >= 3  # the first are padding on the left
    mask = (jnp.tril(jnp.ones((length, length), bool)) & pads)[None]
    weight = draw(3, *q.shape)
    if length < 2 * BLOCK:  # what such rows of a short sequence put out means nothing
        weight = weight * pads[:, None, None, None]
    found, expected = (
        jax.jit(jax.value_and_grad(lambda x, f=f: jnp.sum(weight * jnp.tanh(f(*x, mask)))))((q, k, v))
        for f in (attend, lambda *x: plain_attention(*x) * pads[:, None, None, None])
    )
    assert_close(found, expected, 2e-5)
    text = jax.jit(attend).lower(q, k, v, mask).as_text()
    whole = length < 2 * BLOCK
    assert (f"x{length * G}x{length}xf32" in text) == whole  # the scores of all with all
    kept = jax.eval_shape(lambda *x: jax.vjp(lambda *y: attend(*y, mask), *x)[1], q, k, v)
    scores = [leaf for leaf in jax.tree.leaves(kept) if leaf.dtype == jnp.float32 and leaf.shape[-1] > H]
    assert bool(scores) == whole  # long sequences keep no scores for the derivative


def test_what_is_masked_changes_nothing(heads):
    q, k, v, mask = heads
    other = k.at[:, :, 1].add(7.0), v.at[:, :, 1].add(7.0)
    rows = np.arange(T) != 1
    assert_close(attend(q, *other, mask)[:, rows], attend(q, k, v, mask)[:, rows], 0)


@pytest.mark.parametrize("length", [T, 2 * BLOCK])
def test_half_precision_attention_is_near_and_keeps_its_type(length):
    half = [draw(0, B, length, K, G, H), draw(1, B, K, length, H), draw(2, B, K, length, H)]
    half = [x.astype(jnp.bfloat16) for x in half]
    mask = jnp.broadcast_to(jnp.tril(jnp.ones((length, length), bool)), (B, length, length))
    found = attend(*half, mask)
    assert found.dtype == jnp.bfloat16
    expected = plain_attention(*(x.astype(jnp.float32) for x in half), mask)
    np.testing.assert_allclose(found.astype(jnp.float32), expected, atol=0.03)

    def loss(function, arrays):
        return jnp.sum(jnp.tanh(function(*arrays, mask).astype(jnp.float32)))

    wide = [x.astype(jnp.float32) for x in half]
    gradient = jax.jit(jax.grad(lambda x: loss(attend, x)))(half)
    exact = jax.jit(jax.grad(lambda x: loss(plain_attention, x)))(wide)
    for one, other in zip(gradient, exact, strict=True):
        assert one.dtype == jnp.bfloat16
        np.testing.assert_allclose(one.astype(jnp.float32), other, rtol=0.02, atol=0.06)


def plain_projection(x, kernel, a, b):
    return x @ kernel.T + (x @ a.T) @ b.T


@pytest.mark.parametrize("rows", [1, 40])
def test_projections_and_their_gradients_are_the_plain_formulas(rows):
    operands = draw(0, rows, 3, 8), draw(1, 6, 8), draw(2, 2, 8), draw(3, 6, 2)
    assert merges(rows * 3, operands[1], operands[2]) == (rows == 40)
    assert_close(adapted(*operands), plain_projection(*operands), 1e-5)
    weight = draw(4, rows, 3, 6)

    def gradient(function):
        return jax.jit(jax.grad(lambda operands: jnp.sum(weight * jnp.sin(function(*operands)))))(operands)

    assert_close(gradient(adapted), gradient(plain_projection), 1e-4)


def test_nothing_is_merged_into_weights_of_less_precision():
    kernel, a, b = draw(1, 6, 8, dtype=jnp.bfloat16), 1e-4 * draw(2, 2, 8), 1e-2 * draw(3, 6, 2)
    x = draw(0, 50, 8, dtype=jnp.bfloat16)
    assert not merges(50, kernel, a)
    found = adapted(x, kernel, a, b)
    expected = x @ kernel.T + ((x.astype(jnp.float32) @ a.T) @ b.T).astype(jnp.bfloat16)
    np.testing.assert_array_equal(found, expected)
    gradients = jax.grad(lambda a, b: jnp.sum(adapted(x, kernel, a, b).astype(jnp.float32)), (0, 1))(a, b)
    assert [leaf.dtype for leaf in gradients] == [jnp.float32, jnp.float32]


def trees():
    params = {"embed": draw(9, 3, 8), "layers": {"q_proj": {"kernel": draw(1, 4, 6, 8)}}}
    return params, {"layers": {"q_proj": {"a": draw(2, 4, 2, 8), "b": draw(3, 4, 6, 2)}}}


def test_an_adapter_is_merged_where_it_pays():
    params, lora = trees()
    found, rest = merge_adapter(params, lora, worth_merging(params, lora, 100))
    assert rest is None
    for layer in range(4):
        a, b = (lora["layers"]["q_proj"][name][layer] for name in ("a", "b"))
        expected = np.float64(params["layers"]["q_proj"]["kernel"][layer]) + np.float64(b) @ np.float64(a)
        np.testing.assert_allclose(found["layers"]["q_proj"]["kernel"][layer], expected, rtol=1e-5, atol=1e-5)
    assert found["embed"] is params["embed"]


def test_an_adapter_stays_apart_where_that_costs_less_or_weights_are_large(monkeypatch):
    params, lora = trees()
    assert merge_adapter(params, lora, worth_merging(params, lora, 3)) == (params, {"layers": {**lora["layers"]}})
    assert merge_adapter(params, None, worth_merging(params, None, 100)) == (params, None)
    monkeypatch.setattr(projection, "MERGED_BYTES", 10)
    assert merge_adapter(params, lora, worth_merging(params, lora, 100)) == (params, lora)
