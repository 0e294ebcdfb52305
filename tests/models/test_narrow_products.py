"""Products of bfloat16: native on the CPU, summed in float32, rounded once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nlsr_jax import hardware
from nlsr_jax.models import generate
from nlsr_jax.models.generate import make_ready
from nlsr_jax.models.product import linear, product
from nlsr_jax.modules import MODULES
from tests.training import tiny

ROUNDING = 2.0**-7
"""Relative: bfloat16 has 8 bits, and a sum near a tie may go either way."""


def draw(key, *shape):
    return jax.random.normal(jax.random.key(key), shape, jnp.bfloat16)


def exact(subscripts, *operands):
    return np.einsum(subscripts, *(np.asarray(x, np.float64) for x in operands))


@pytest.mark.parametrize("subscripts", ["nk,dk->nd", "nd,dk->nk", "nd,nk->dk", "bnk,bkd->bnd"])
def test_a_product_is_the_exact_one_rounded(subscripts):
    sizes = {"n": 48, "k": 40, "d": 56, "b": 3}
    left, right = subscripts.split("->")[0].split(",")
    x, y = draw(0, *(sizes[i] for i in left)), draw(1, *(sizes[i] for i in right))
    found, wanted = product(subscripts, x, y), exact(subscripts, x, y)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(found, np.float64), wanted, rtol=ROUNDING, atol=1e-4)


@pytest.mark.parametrize("shape", [(64, 32), (2, 32, 32)])
def test_derivatives_of_a_linear_map_are_the_exact_ones_rounded(shape):
    x, kernel, d_y = draw(0, *shape), draw(1, 48, shape[-1]), draw(2, *shape[:-1], 48)
    y, pull = jax.vjp(linear, x, kernel)
    d_x, d_kernel = pull(d_y)
    assert (y.dtype, d_x.dtype, d_kernel.dtype) == (jnp.bfloat16,) * 3
    flat, d_flat = x.reshape(-1, shape[-1]), d_y.reshape(-1, 48)
    for found, wanted in (
        (y.reshape(-1, 48), exact("nk,dk->nd", flat, kernel)),
        (d_x.reshape(flat.shape), exact("nd,dk->nk", d_flat, kernel)),
        (d_kernel, exact("nd,nk->dk", d_flat, flat)),
    ):
        np.testing.assert_allclose(np.asarray(found, np.float64), wanted, rtol=ROUNDING, atol=1e-4)


@pytest.mark.skipif(hardware.platform() != "cpu", reason="other platforms multiply bfloat16 as it is")
def test_weights_are_not_converted():
    x, kernel = jax.ShapeDtypeStruct((256, 512), jnp.bfloat16), jax.ShapeDtypeStruct((2048, 512), jnp.bfloat16)

    def needed(function):
        return jax.jit(function).lower(x, kernel).compile().memory_analysis().temp_size_in_bytes

    result, copy = 4 * 256 * 2048, 4 * kernel.size
    assert needed(linear) <= result < copy
    assert needed(lambda x, kernel: jnp.einsum("nk,dk->nd", x, kernel)) > copy


@pytest.mark.parametrize(
    ("platform", "dtypes", "widens"),
    [
        ("cpu", ("bfloat16", "bfloat16"), True),
        ("cpu", ("bfloat16", "float32"), False),
        ("cpu", ("float16", "float16"), False),
        ("cpu", ("float32", "float32"), False),
        ("gpu", ("bfloat16", "bfloat16"), False),
    ],
)
def test_only_bfloat16_on_the_cpu_is_asked_for_in_float32(platform, dtypes, widens, monkeypatch):
    monkeypatch.setattr(hardware, "platform", lambda: platform)
    assert hardware.widens_products(*dtypes) is widens


@pytest.mark.parametrize("modules", [tiny.FEW, MODULES])
def test_joined_factors_are_those_of_the_modules(modules):
    """Of projections with one input, some may have no factors."""
    model, params = tiny.llama()
    adapter, prompts = tiny.adapter(modules=modules), np.arange(15, dtype=np.int32).reshape(3, 5)
    merged = generate(model, params, prompts, adapter=adapter, max_new_tokens=6)
    stacked = generate(model, params, prompts, adapter=(adapter,), max_new_tokens=6)
    twice = generate(model, params, prompts, adapter=(adapter, adapter), max_new_tokens=6)
    base = generate(model, params, prompts, max_new_tokens=6)
    assert np.any(base != merged)
    np.testing.assert_array_equal(stacked[0], merged)
    np.testing.assert_array_equal(twice, np.stack([merged, merged]))


def test_generation_with_one_adapter_is_that_with_a_stack_of_one():
    model, params = tiny.llama()
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    adapter, prompts = tiny.adapter(), np.ones((3, 5), np.int32)
    alone = generate(model, params, prompts, adapter=adapter, max_new_tokens=6)
    assert alone.shape == (3, 6)
    stacked = generate(model, params, prompts, adapter=(adapter,), max_new_tokens=6)
    assert stacked.shape == (1, 3, 6)
    np.testing.assert_array_equal(alone, stacked[0])
    ready = make_ready(model, params, adapter, positions=33)
    np.testing.assert_array_equal(generate(model, ready, prompts, max_new_tokens=6), alone)
