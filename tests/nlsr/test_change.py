"""Sizes of changes and of residuals, against full products in float64."""

import jax
import numpy as np
import pytest

import nlsr_jax
from nlsr_jax.adapter import delta, truncate, truncate_measured
from nlsr_jax.nlsr.change import change_size, correction_size, share_taken
from tests.oracles import mixed, random_adapter


def norms(products):
    return {m: np.linalg.norm(np.float64(p), axis=(1, 2)) for m, p in products.items()}


@pytest.mark.parametrize("weight", [1e-6, 0.1, 3.0])
def test_change_is_that_of_the_products(weight):
    before = random_adapter(0)
    after = mixed(before, random_adapter(1), weight)
    wide = {
        name: {m: np.float64(leaf["b"]) @ np.float64(leaf["a"]) for m, leaf in adapter.factors.items()}
        for name, adapter in (("before", before), ("after", after))
    }
    moved = norms({m: wide["after"][m] - wide["before"][m] for m in wide["before"]})
    for module, value in change_size(before, after).items():
        np.testing.assert_allclose(value, moved[module] / norms(wide["before"])[module], rtol=1e-4)


def test_a_correction_and_the_share_of_a_slot():
    finetuned, reference = random_adapter(0), random_adapter(1)
    masks = jax.tree.map(lambda x: x > 0.5, random_adapter(2).factors)
    corrected = nlsr_jax.realign(jax.random.key(0), finetuned, reference, masks, rule="all").adapter
    size, taken = correction_size(finetuned, reference, masks), share_taken(reference, masks, (2, 5))
    for module, leaf in reference.factors.items():
        np.testing.assert_allclose(size[module], change_size(finetuned, corrected)[module], rtol=1e-6)
        a, b = leaf["a"][:, 2:5], leaf["b"][:, :, 2:5]
        part = np.where(masks[module]["b"][:, :, 2:5], b, 0) @ a
        expected = np.linalg.norm(part, axis=(1, 2)) / np.linalg.norm(b @ a, axis=(1, 2))
        np.testing.assert_allclose(taken[module], expected, rtol=1e-4)


def test_residuals_are_those_of_the_best_approximation():
    adapter = random_adapter(0, scaling=1.0)
    found, left = truncate_measured(adapter, 5)
    for module, products in delta(adapter).items():
        assert np.array_equal(found.factors[module]["a"], truncate(adapter, 5).factors[module]["a"])
        s = np.linalg.svd(np.float64(products), compute_uv=False)
        expected = np.sqrt((s[:, 5:] ** 2).sum(1) / (s**2).sum(1))
        np.testing.assert_allclose(left[module], expected, rtol=1e-4)
        error = np.linalg.norm(delta(found)[module] - products, axis=(1, 2))
        np.testing.assert_allclose(error / np.linalg.norm(products, axis=(1, 2)), expected, rtol=1e-4)
    assert not any(np.any(value) for value in truncate_measured(adapter, 8)[1].values())
