"""Exact masks: counts, ties, and equality with a full sort."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from nlsr_jax.nlsr.masks import kept_count, mask_factor, top_mask
from tests.oracles import mask as mask_oracle
from tests.oracles import top_mask as oracle

TOP = jax.jit(top_mask)
FINITE = st.floats(0, width=32, allow_nan=False, allow_infinity=False)


@settings(max_examples=100, deadline=None)
@given(arrays.arrays(np.float32, 37, elements=FINITE), st.integers(0, 37))
def test_equals_a_stable_full_sort(scores, count):
    found = np.asarray(TOP(jnp.asarray(scores), count))
    assert found.sum() == count
    np.testing.assert_array_equal(found, oracle(scores, count))


@settings(max_examples=50, deadline=None)
@given(arrays.arrays(np.float32, 64, elements=st.sampled_from([0.0, 1.0, 2.0])), st.integers(0, 64))
def test_ties_go_to_the_smaller_index(scores, count):
    np.testing.assert_array_equal(TOP(jnp.asarray(scores), count), oracle(scores, count))


@pytest.mark.parametrize("granularity", ["row", "tensor"])
@pytest.mark.parametrize("sparsity", [0.05, 0.5, 0.8, 0.999])
def test_factor_masks_keep_the_exact_count(granularity, sparsity):
    scores = np.abs(np.random.default_rng(0).normal(size=(16, 96))).astype(np.float32)
    found = np.asarray(mask_factor(jnp.asarray(scores), sparsity, granularity))
    np.testing.assert_array_equal(found, mask_oracle(scores, sparsity, granularity))
    per = 96 if granularity == "row" else scores.size
    assert found.sum() == kept_count(per, sparsity) * (scores.size // per)


def test_extremes():
    scores = jnp.asarray([0.0, 1e-45, 3.4e38, 1e-45])
    assert top_mask(scores, 0).tolist() == [False] * 4
    assert top_mask(scores, 4).tolist() == [True] * 4
    assert top_mask(scores, 2).tolist() == [False, True, True, False]
    assert top_mask(jnp.zeros(5), 3).tolist() == [True, True, True, False, False]


def test_half_precision_scores_compare_as_float32():
    scores = jnp.asarray([1.0, 2.0, 3.0], jnp.bfloat16)
    assert top_mask(scores, 1).tolist() == [False, False, True]
