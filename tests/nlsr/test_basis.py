"""Turning the rank axis: products stay, and what a turn has hidden is found again."""

import dataclasses

import jax
import numpy as np
import pytest

from nlsr_jax.adapter import delta
from nlsr_jax.errors import InputError
from nlsr_jax.nlsr.basis import common_basis, turned
from nlsr_jax.nlsr.identify import identify
from nlsr_jax.nlsr.lineage import lineage
from nlsr_jax.nlsr.realign import realign
from tests.oracles import mixed, random_adapter

KEY = jax.random.key(0)
ALIGNED = random_adapter(0)
FINETUNED = mixed(ALIGNED, random_adapter(1), 0.4)


def lowest(adapter):
    return min(float(np.min(value)) for pair in lineage(ALIGNED, adapter).values() for value in pair.values())


def assert_same_products(one, other, tolerance=1e-4):
    for module, value in delta(one).items():
        expected = np.asarray(delta(other)[module])
        np.testing.assert_allclose(value, expected, atol=tolerance * np.abs(expected).max())


def assert_near(one, other, tolerance):
    for module, leaf in one.factors.items():
        for factor, value in leaf.items():
            np.testing.assert_allclose(value, other.factors[module][factor], atol=tolerance)


def refactored(adapter):
    """The same products from factors of another make: balanced by an SVD, far from a rotation of the old ones."""
    factors = {}
    for module, leaf in adapter.factors.items():
        u, s, vt = np.linalg.svd(leaf["b"].astype(np.float64) @ leaf["a"], full_matrices=False)
        rank = leaf["a"].shape[1]
        root = np.sqrt(s[:, :rank])
        factors[module] = {
            "a": (root[:, :, None] * vt[:, :rank]).astype(np.float32),
            "b": (u[:, :, :rank] * root[:, None]).astype(np.float32),
        }
    return dataclasses.replace(adapter, factors=factors)


def test_a_turn_hides_the_lineage_and_keeps_the_products():
    found = turned(KEY, FINETUNED)
    assert_same_products(found, FINETUNED)
    assert lowest(FINETUNED) > 0.8
    assert lowest(found) < 0.5
    assert_near(turned(KEY, FINETUNED), found, 0)
    assert not np.allclose(
        found.factors["q_proj"]["a"], turned(jax.random.key(1), FINETUNED).factors["q_proj"]["a"]
    )


def test_procrustes_undoes_a_rotation():
    found = common_basis(turned(KEY, FINETUNED), ALIGNED)
    assert_same_products(found, FINETUNED)
    assert_near(found, common_basis(FINETUNED, ALIGNED), 1e-4)
    assert lowest(found) > 0.8


def test_procrustes_of_the_aligned_adapter_turned_is_the_aligned_adapter():
    assert_near(common_basis(turned(KEY, ALIGNED), ALIGNED), ALIGNED, 1e-4)


def test_linear_undoes_any_change_of_basis():
    other = refactored(FINETUNED)
    assert lowest(other) < 0.5
    found = common_basis(other, ALIGNED, method="linear")
    assert_same_products(found, FINETUNED, 1e-3)
    assert_near(found, common_basis(FINETUNED, ALIGNED, method="linear"), 1e-2)
    assert_near(common_basis(refactored(ALIGNED), ALIGNED, method="linear"), ALIGNED, 1e-2)


def test_as_is_is_the_same_object():
    assert common_basis(FINETUNED, ALIGNED, method="as_is") is FINETUNED


def test_realignment_of_a_turned_adapter_is_that_of_the_adapter():
    masks = identify(ALIGNED, method="magnitude")

    def repaired(adapter):
        return realign(KEY, common_basis(adapter, ALIGNED), ALIGNED, masks, rule="all").adapter

    assert_same_products(repaired(turned(KEY, FINETUNED)), repaired(FINETUNED), 1e-3)


@pytest.mark.parametrize("method", ["procrustes", "linear"])
def test_a_zero_adapter_stays_zero(method):
    zero = jax.tree.map(np.zeros_like, FINETUNED)
    assert_near(common_basis(zero, ALIGNED, method=method), zero, 0)


def without_a_direction(adapter):
    """The adapter with a zero row in A and the column of B that belongs to it."""
    factors = {m: {f: leaf.copy() for f, leaf in pair.items()} for m, pair in adapter.factors.items()}
    for pair in factors.values():
        pair["a"][:, 0], pair["b"][:, :, 0] = 0, 0
    return dataclasses.replace(adapter, factors=factors)


@pytest.mark.parametrize(("first", "second"), [(0, 1), (1, 0), (1, 1)])
def test_where_no_matrix_fits_the_products_stay_all_the_same(first, second):
    adapters = [(one, without_a_direction(one)) for one in (FINETUNED, ALIGNED)]
    found = common_basis(adapters[0][first], adapters[1][second], method="linear")
    assert_same_products(found, adapters[0][first], 1e-3)


@pytest.mark.parametrize(
    ("method", "message"), [("svd", "basis is 'svd'; expected one of as_is, procrustes, linear")]
)
def test_methods_are_checked(method, message):
    with pytest.raises(InputError, match=message):
        common_basis(FINETUNED, ALIGNED, method=method)
