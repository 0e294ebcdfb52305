"""Adapters as the model takes them: in every form, by one program, without needless copies."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nlsr_jax.adapter import Adapter
from nlsr_jax.models.llama import Llama
from nlsr_jax.models.lora import expand, prepare
from tests.compilations import compilations
from tests.oracles import random_adapter
from tests.training import tiny

CONFIG = dataclasses.replace(
    tiny.CONFIG, hidden_size=24, intermediate_size=40, num_layers=3, num_heads=4, num_kv_heads=2, head_dim=6
)
MODEL = Llama(CONFIG)
ADAPTER = random_adapter(0)


def scaled(scaling, layers=None) -> Adapter:
    factors = {
        m: leaf if layers is None else jax.tree.map(lambda x: x[:2], leaf) for m, leaf in ADAPTER.factors.items()
    }
    return Adapter(factors, scaling, layers)


FORMS = {
    "number": 0.5,
    "tuple": dict.fromkeys(ADAPTER.factors, (0.5, 1.0, 2.0)),
    "list": {m: [0.5, 1.0, 2.0] for m in ADAPTER.factors},
    "array": {m: np.asarray([0.5, 1.0, 2.0]) for m in ADAPTER.factors},
    "numpy number": np.float64(0.5),
    "jax array": {m: jnp.asarray([0.5, 1.0, 2.0]) for m in ADAPTER.factors},
}


def check(adapter: Adapter) -> None:
    found, expected = prepare(MODEL, adapter), expand(adapter, CONFIG.num_layers)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize("second", FORMS)
@pytest.mark.parametrize("first", FORMS)
def test_scaling_of_every_form_after_every_other(first, second):
    for name in (first, second):
        check(scaled(FORMS[name]))


@pytest.mark.parametrize("kind", [tuple, list, np.asarray])
def test_layers_of_every_form(kind):
    check(scaled(2.0, {m: kind([0, 2]) for m in ADAPTER.factors}))
    found = prepare(MODEL, scaled(2.0, {m: kind([0, 2]) for m in ADAPTER.factors}))["layers"]["q_proj"]
    np.testing.assert_array_equal(found["b"][2], 2 * ADAPTER.factors["q_proj"]["b"][1])
    assert not found["a"][1].any()


def test_a_scaling_that_was_changed_in_place_counts():
    values = [1.0, 1.0, 1.0]
    adapter = scaled(dict.fromkeys(ADAPTER.factors, values))
    before = prepare(MODEL, adapter)["layers"]["q_proj"]["b"]
    values[:] = [5.0, 5.0, 5.0]
    np.testing.assert_array_equal(prepare(MODEL, adapter)["layers"]["q_proj"]["b"], 5 * before)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
def test_factors_become_float32(dtype):
    factors = jax.tree.map(lambda x: x.astype(dtype), dict(ADAPTER.factors))
    for leaf in jax.tree.leaves(prepare(MODEL, Adapter(factors, 2.0))):
        assert leaf.dtype == jnp.float32


def test_what_stays_as_it_is_is_not_copied():
    factors = jax.tree.map(jnp.asarray, dict(ADAPTER.factors))
    found = prepare(MODEL, Adapter(factors, 2.0))["layers"]
    for module, leaf in factors.items():
        assert found[module]["a"] is leaf["a"]


def test_adapters_that_differ_in_scaling_share_a_program():
    factors = random_adapter(0, rank=5).factors  # of shapes that no other test has
    with compilations() as compiled:
        prepare(MODEL, Adapter(factors, 1.25))
        assert compiled
        compiled.clear()
        for scaling in (1.5, 1.75):
            prepare(MODEL, Adapter(factors, scaling))
    assert not compiled
