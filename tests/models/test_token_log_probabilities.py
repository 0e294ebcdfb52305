"""Log-probabilities of tokens against a plain log-softmax, in parts too, and the layers computed twice."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nlsr_jax.models import token_log_probabilities as module
from nlsr_jax.models.llama import Llama, variables
from nlsr_jax.models.lora import expand
from tests.training import tiny

TOKENS = np.random.default_rng(0).integers(0, tiny.VOCABULARY, (3, 9)).astype(np.int32)
# float32 through two layers, summed in another order
NEAR = {"rtol": 1e-4, "atol": 1e-5}


def plain(model, params, lora, tokens):
    """Log-softmax of all logits."""
    logits = model.apply(variables(params, lora), tokens)[:, :-1]
    return jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[:, 1:, None], axis=-1)[..., 0]


def value_and_gradient(function, model, params, lora):
    """Values, and the gradient of a weighted sum with respect to base and adapter."""
    weights = np.random.default_rng(1).normal(size=(3, 8))

    @jax.jit
    def both(params, lora):
        def total(params, lora):
            values = function(model, params, lora, TOKENS)
            return jnp.sum(values * weights), values

        return jax.grad(total, argnums=(0, 1), has_aux=True)(params, lora)

    gradient, values = both(params, lora)
    return values, gradient


def assert_near(one, two):
    for first, second in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        scale = max(1.0, float(np.abs(second).max()))
        np.testing.assert_allclose(first / scale, second / scale, **NEAR)


@functools.cache
def expected_of(tied):
    """A model with an adapter, and the values and gradient of the plain formula."""
    model, params = tiny.llama(tied=tied)
    assert ("lm_head" in params) != tied
    lora = expand(tiny.adapter(modules=tiny.FEW), 2)
    return (model, params, lora), value_and_gradient(plain, model, params, lora)


@pytest.mark.parametrize("tied", [False, True])
def test_equals_a_plain_log_softmax(tied):
    given, expected = expected_of(tied)
    assert expected[0].shape == (3, 8)
    assert_near(value_and_gradient(module.token_log_probabilities, *given), expected)


@pytest.mark.parametrize(("tied", "positions"), [(True, 1), (False, 9)])
def test_in_parts_too(monkeypatch, tied, positions):
    given, expected = expected_of(tied)
    monkeypatch.setattr(module, "WHOLE_LOGITS", 8 * tiny.VOCABULARY)
    # parts of 1, 2 and 3 positions, of which the last is filled up, and of all
    monkeypatch.setattr(module, "POSITIONS", positions)
    assert_near(value_and_gradient(module.token_log_probabilities, *given), expected)


def test_all_logits_are_made_only_where_they_are_few(monkeypatch):
    model, params = tiny.llama()
    monkeypatch.setattr(module, "POSITIONS", 12)

    def made():
        total = jax.grad(lambda p: module.token_log_probabilities(model, p, None, TOKENS).sum())
        return f"f32[3,8,{tiny.VOCABULARY}]" in str(jax.make_jaxpr(total)(params))

    monkeypatch.setattr(module, "WHOLE_LOGITS", 3 * 8 * tiny.VOCABULARY)
    assert made()
    monkeypatch.setattr(module, "WHOLE_LOGITS", 3 * 8 * tiny.VOCABULARY - 1)
    assert not made()


def test_sixteen_bits_change_values_and_derivatives_by_their_rounding_alone(monkeypatch):
    model, params = tiny.llama()
    monkeypatch.setattr(module, "WHOLE_LOGITS", 0)
    exact = value_and_gradient(module.token_log_probabilities, model, params, None)
    short = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    values, gradient = value_and_gradient(module.token_log_probabilities, model, short, None)
    assert values.dtype == jnp.float32
    np.testing.assert_allclose(values, exact[0], atol=0.3)
    for one, other in zip(jax.tree.leaves(gradient), jax.tree.leaves(exact[1]), strict=True):
        assert one.dtype == jnp.bfloat16
        assert np.linalg.norm(one.astype(jnp.float32) - other) < 0.05 * np.linalg.norm(other)


def compiled_gradient(params, *trained):
    """The program of the derivative by an adapter, or by another tree."""
    model = Llama(tiny.CONFIG)

    def total(lora, params):
        return module.token_log_probabilities(model, params, lora, TOKENS).sum()

    return jax.jit(jax.grad(total, argnums=trained)).lower(LORA, params).compile().as_text()


LORA = expand(tiny.adapter(modules=tiny.FEW), 2)


def test_an_adapter_alone_costs_no_gradient_of_the_head(monkeypatch):
    _, params = tiny.llama()
    monkeypatch.setattr(module, "WHOLE_LOGITS", 0)
    product = "btv,btd->vd"
    assert product not in compiled_gradient(params, 0)
    assert product in compiled_gradient(params, 0, 1)


def test_products_are_kept_for_the_backward_pass():
    _, params = tiny.llama()
    again = [line for line in compiled_gradient(params, 0).splitlines() if "rematted_computation" in line]
    assert again  # what costs little is computed again
    assert not [line for line in again if "_proj/dot_general" in line]


@jax.jit
def found(params, tokens):
    return module.token_log_probabilities(Llama(tiny.CONFIG), params, None, tokens)


def test_what_stands_behind_a_text_does_not_reach_it():
    _, params = tiny.llama()
    other = TOKENS.copy()
    other[:, 6:] = 0
    np.testing.assert_allclose(found(params, TOKENS)[:, :5], found(params, other)[:, :5], rtol=1e-6)


def test_the_result_is_float32_and_below_zero():
    _, params = tiny.llama()
    values = found(jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params), TOKENS)
    assert values.dtype == jnp.float32
    assert (values <= 0).all()
    np.testing.assert_allclose(values, found(params, TOKENS), atol=0.3)  # eight bits of mantissa in the logits


def test_layers_computed_twice_give_the_same():
    (model, params, lora), expected = expected_of(False)
    twice = dataclasses.replace(model, remat=True)
    shapes = [jax.eval_shape(m.init, jax.random.key(0), TOKENS) for m in (model, twice)]
    assert shapes[0] == shapes[1]  # the same files fit both
    assert_near(value_and_gradient(module.token_log_probabilities, twice, params, lora), expected)
    programs = [
        str(jax.make_jaxpr(lambda lora, m=m: module.token_log_probabilities(m, params, lora, TOKENS))(lora))
        for m in (model, twice)
    ]
    assert ["policy=None" in text for text in programs] == [False, True]
