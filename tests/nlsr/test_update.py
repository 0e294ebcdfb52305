"""The customer's update: the same products in every basis, and lifted adapters of one lineage."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nlsr_jax.adapter import Adapter, delta
from nlsr_jax.errors import InputError
from nlsr_jax.nlsr.amplify import amplify
from nlsr_jax.nlsr.lift import lift
from nlsr_jax.nlsr.settings import UPDATE_BASES as BASES
from nlsr_jax.nlsr.update import factor_update

SHAPES = {"q_proj": (12, 10), "down_proj": (9, 14)}
LAYERS = {"q_proj": (0, 2, 3), "down_proj": (0, 1, 2)}


def adapter(seed: int, rank: int, scaling: float = 2.0) -> Adapter:
    draw = np.random.default_rng(seed)
    factors = {
        module: {
            "a": draw.normal(size=(3, rank, k)).astype(np.float32),
            "b": draw.normal(size=(3, d, rank)).astype(np.float32),
        }
        for module, (d, k) in SHAPES.items()
    }
    return Adapter(factors, scaling, LAYERS)


def difference(one: Adapter, other: Adapter | None) -> dict:
    found = delta(one)
    return found if other is None else {m: found[m] - value for m, value in delta(other).items()}


def assert_products(found: Adapter, expected, atol=2e-5) -> None:
    for module, value in delta(found).items():
        np.testing.assert_allclose(value, expected[module], rtol=0, atol=atol * np.abs(expected[module]).max())


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("rank", [None, 4])
def test_products_are_the_update_in_every_basis(basis, rank):
    finetuned, aligned = adapter(1, 4), None if rank is None else adapter(2, rank, 0.5)
    found = factor_update(finetuned, aligned, basis=basis, key=jax.random.key(7))
    assert_products(found, difference(finetuned, aligned))
    assert found.layers == finetuned.layers


def test_ranks_beyond_the_matrix_are_cut_to_it():
    finetuned, aligned = adapter(1, 8), adapter(2, 5)
    found = factor_update(finetuned, aligned, key=jax.random.key(0))
    assert {m: leaf["a"].shape[1] for m, leaf in found.factors.items()} == {"q_proj": 10, "down_proj": 9}
    assert_products(found, difference(finetuned, aligned))


def test_rotations_belong_to_layers_and_not_to_places():
    """A module that adapts fewer layers is turned in those as one that adapts all."""
    whole, key = adapter(1, 4), jax.random.key(3)
    part = Adapter(
        {m: {f: leaf[f][1:] for f in leaf} for m, leaf in whole.factors.items()},
        whole.scaling,
        {m: layers[1:] for m, layers in LAYERS.items()},
    )
    one, two = (factor_update(x, basis="turned", key=key) for x in (whole, part))
    for module in SHAPES:
        np.testing.assert_array_equal(one.factors[module]["a"][1:], two.factors[module]["a"])


def test_turned_factors_spread_what_singular_vectors_gather():
    """Row norms of A differ by the singular values in one basis, and are alike in the other."""
    low = adapter(1, 6)
    steep = Adapter(
        {m: {"a": leaf["a"] * 4.0 ** -jnp.arange(6)[:, None], "b": leaf["b"]} for m, leaf in low.factors.items()}
    )
    spread = {}
    for basis in ("svd", "turned"):
        a = factor_update(steep, basis=basis, key=jax.random.key(0)).factors["q_proj"]["a"]
        norms = jnp.linalg.norm(a, axis=2)
        spread[basis] = float((norms.max(1) / norms.min(1)).mean())
    assert spread["turned"] < spread["svd"] / 4


def test_same_key_same_bytes_and_another_key_another_basis():
    finetuned, aligned = adapter(1, 4), adapter(2, 4)
    one, two, three = (factor_update(finetuned, aligned, key=jax.random.key(k)) for k in (5, 5, 6))
    same, other = (
        jax.tree.leaves(jax.tree.map(lambda x, y: bool((x == y).all()), one.factors, found.factors))
        for found in (two, three)
    )
    assert all(same)
    assert not any(other)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"basis": "other"}, "basis is 'other'"),
        ({}, "give key"),
        ({"basis": "own", "aligned": adapter(2, 3)}, "rank 3 in aligned and 4"),
    ],
)
def test_what_cannot_be_factored_is_refused(kwargs, message):
    with pytest.raises(InputError, match=message):
        factor_update(adapter(1, 4), **kwargs)


@pytest.mark.parametrize("with_direction", [False, True])
def test_lifted_adapters_of_one_lineage_have_the_products_they_stand_for(with_direction):
    finetuned, aligned, weak = adapter(1, 4), adapter(2, 3, 0.5), adapter(3, 2, 1.0)
    direction = factor_update(aligned, weak, key=jax.random.key(9)) if with_direction else None
    lifted = lift(finetuned, direction, aligned=aligned, key=jax.random.key(4))
    before = difference(weak, None) if with_direction else {m: 0.0 * v for m, v in delta(weak).items()}
    assert_products(lifted.finetuned, delta(finetuned))
    assert_products(lifted.aligned, delta(aligned))
    for module, value in delta(lifted.weak).items():
        np.testing.assert_allclose(value, before[module], rtol=0, atol=2e-4)
    reference = amplify(lifted.aligned, lifted.weak, beta=0.7)
    expected = {m: v + 0.7 * (v - before[m]) for m, v in delta(aligned).items()}
    assert_products(reference, expected)
    for module, leaf in lifted.finetuned.factors.items():
        for other in (lifted.weak, lifted.aligned, reference):
            np.testing.assert_array_equal(leaf["a"], other.factors[module]["a"])


def test_an_adapter_of_its_own_basis_stays_bit_for_bit():
    finetuned = adapter(1, 4)
    lifted = lift(finetuned)
    assert lifted.finetuned.factors["q_proj"]["a"] is finetuned.factors["q_proj"]["a"]
    assert lifted.finetuned.scaling == finetuned.scaling
    np.testing.assert_array_equal(lifted.finetuned.factors["q_proj"]["b"], finetuned.factors["q_proj"]["b"])
