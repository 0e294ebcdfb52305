"""Masks made in the memory of the host are those of the compiled programs, entry for entry."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from nlsr_jax import hardware
from nlsr_jax.errors import InputError
from nlsr_jax.nlsr import identify as module
from nlsr_jax.nlsr.identify import METHODS, identifier, identify
from nlsr_jax.nlsr.masks import (
    HostTree,
    host_mask_tree,
    host_top_mask,
    mask_layers,
    mask_tree,
    top_mask,
)
from nlsr_jax.nlsr.statistics import statistics_from_activations
from tests.oracles import activations, mixed, random_adapter

TOP = jax.jit(top_mask)
FINITE = st.floats(0, width=32, allow_nan=False, allow_infinity=False)
SIZES = {"k_proj": (24, 16), "v_proj": (24, 16)}
REFERENCE = random_adapter(3, layers=2, sizes=SIZES)
STATISTICS = statistics_from_activations(REFERENCE, activations(1, REFERENCE, 500, 0.05))
OTHER = random_adapter(9, layers=2, sizes=SIZES).factors
BESIDE = {
    "gain": {"gradients": OTHER, "finetuned": mixed(REFERENCE, random_adapter(8, layers=2, sizes=SIZES), 0.5)},
    "random": {"key": jax.random.key(0)},
    "snip": {"gradients": jax.tree.map(np.abs, OTHER)},
    "preference_snip": {"gradients": jax.tree.map(np.abs, OTHER)},
}


@given(arrays.arrays(np.float32, 37, elements=FINITE | st.sampled_from([0.0, 1.0, 1e-45])), st.integers(0, 37))
def test_the_largest_are_the_same_with_ties_and_denormals(scores, count):
    found = host_top_mask(scores, count)
    assert np.count_nonzero(found) == count
    np.testing.assert_array_equal(found, TOP(jnp.asarray(scores), count))


def test_one_threshold_for_a_tree_breaks_ties_in_the_order_of_its_leaves():
    scores = {"x": jnp.asarray([[1.0, 2.0, 2.0]]), "y": jnp.asarray([[2.0], [0.0]])}
    for one, other in zip(
        jax.tree.leaves(host_mask_tree(scores, 0.6)), jax.tree.leaves(mask_tree(scores, 0.6)), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    assert host_mask_tree(scores, 0.6)["x"].tolist() == [[False, True, True]]


@pytest.mark.parametrize(
    ("method", "granularity"),
    [
        *((method, "tensor") for method in METHODS),
        ("low_rank", "row"),
        ("low_rank", "adapter"),
        ("gain", "adapter"),
    ],
)
def test_identify_marks_the_same_entries(method, granularity, monkeypatch):
    settings = {"method": method, "granularity": granularity, "sparsity": 0.7, **BESIDE.get(method, {})}
    made = []
    host = module._on_host
    monkeypatch.setattr(module, "_on_host", lambda *a, **k: made.append(1) or host(*a, **k))
    found = identify(REFERENCE, STATISTICS, **settings)
    assert made, "the way by NumPy was not taken"
    monkeypatch.setattr(hardware, "selects_on_host", lambda tree: False)
    compiled = identify(REFERENCE, STATISTICS, **settings)
    assert jax.tree.structure(found) == jax.tree.structure(compiled)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(compiled), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("method", ["gain", "low_rank"])
def test_one_identifier_marks_what_identify_does_with_every_sparsity(method):
    given = {"method": method, "granularity": "adapter", **BESIDE.get(method, {})}
    masks = identifier(REFERENCE, STATISTICS, **given)
    for sparsity in (0.9, 0.3, 1 - 1e-9, 0.7):
        expected = identify(REFERENCE, STATISTICS, sparsity=sparsity, **given)
        for one, other in zip(jax.tree.leaves(masks(sparsity)), jax.tree.leaves(expected), strict=True):
            np.testing.assert_array_equal(one, other)
    with pytest.raises(InputError, match="sparsity is 1"):
        masks(1)


@given(
    arrays.arrays(np.float32, 37, elements=FINITE | st.sampled_from([0.0, 1.0])), st.lists(st.floats(0.01, 0.99))
)
def test_masks_of_sorted_scores_are_those_of_a_partition(scores, sparsities):
    tree = HostTree({"x": scores})
    for sparsity in sparsities:
        np.testing.assert_array_equal(tree.mask(sparsity)["x"], host_mask_tree({"x": scores}, sparsity)["x"])


def test_identify_under_jit_is_compiled_as_a_whole():
    masks = jax.jit(lambda statistics: identify(REFERENCE, statistics))(STATISTICS)
    for one, other in zip(jax.tree.leaves(masks), jax.tree.leaves(identify(REFERENCE, STATISTICS)), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("granularity", ["tensor", "row"])
def test_layers_are_masked_alike_either_way(granularity, monkeypatch):
    scores = jax.tree.map(jnp.abs, REFERENCE.factors)
    found = mask_layers(scores, 0.8, granularity)
    monkeypatch.setattr(hardware, "selects_on_host", lambda tree: False)
    for one, other in zip(
        jax.tree.leaves(found), jax.tree.leaves(mask_layers(scores, 0.8, granularity)), strict=True
    ):
        np.testing.assert_array_equal(one, other)
