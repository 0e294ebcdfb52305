"""Scores, comparison and transplant of full matrices, against float64 NumPy."""

import jax
import ml_dtypes
import numpy as np
import pytest

from nlsr_jax.nlsr.statistics import cholesky_root
from nlsr_jax.nlsr.weights import Evidence, Matrices, compare_matrix, reference_matrix, score_matrix, transplant

SHAPES = [(6, 10), (10, 6), (8, 8)]
TYPES = [np.float32, ml_dtypes.bfloat16, np.float16]


def draw(shape, dtype=np.float32, seed=0):
    random = np.random.default_rng(seed)
    return Matrices(*(random.standard_normal(shape).astype(dtype) for _ in range(3))), random


@pytest.mark.parametrize("dtype", TYPES)
def test_other_entries_keep_their_bits(dtype):
    matrices, random = draw((5, 7), dtype)
    matrices.finetuned[0, :2] = -0.0
    mask = random.random((5, 7)) < 0.3
    found = transplant(matrices.finetuned, reference_matrix(matrices, 0.0), mask)
    assert found.dtype == dtype
    assert found[~mask].tobytes() == matrices.finetuned[~mask].tobytes()
    assert found[mask].tobytes() == matrices.aligned[mask].tobytes()
    nothing = transplant(matrices.finetuned, matrices.aligned, np.zeros_like(mask))
    assert nothing.tobytes() == matrices.finetuned.tobytes()


@pytest.mark.parametrize("dtype", TYPES)
def test_reference_without_beta_is_the_aligned_matrix(dtype):
    matrices, _ = draw((5, 7), dtype)
    assert reference_matrix(matrices, 0.0).tobytes() == matrices.aligned.tobytes()
    wide = matrices._replace(aligned=matrices.aligned.astype(np.float32))
    assert reference_matrix(wide, 0.0).tobytes() == matrices.aligned.tobytes()
    start, end = (np.float64(one) for one in (matrices.pretrained, matrices.aligned))
    expected = end + 1.5 * (end - start)
    np.testing.assert_allclose(
        np.float64(reference_matrix(matrices, 1.5)), expected, rtol=float(ml_dtypes.finfo(dtype).eps), atol=1e-6
    )


def test_gain_is_the_decrease_of_a_linear_loss():
    """Of a loss that is linear in the entries, it is exact: each transplant takes its gain off the loss."""
    matrices, random = draw((5, 7))
    gradient = random.standard_normal((5, 7)).astype(np.float32)
    found = score_matrix("gain", matrices, Evidence(gradient=gradient), beta=0.0, sparsity=0.9)
    decrease = gradient.astype(np.float64) * (matrices.finetuned - matrices.aligned)
    np.testing.assert_allclose(found, np.maximum(decrease, 0), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("shape", SHAPES)
def test_update_scores(shape):
    matrices, random = draw(shape)
    d, k = shape
    update = 0.7 * (np.float64(matrices.aligned) - matrices.pretrained)
    inputs = random.standard_normal((k, 40))
    made = update @ inputs if d <= k else inputs
    gram = (made @ made.T).astype(np.float32)
    evidence = Evidence(square=np.sum(inputs**2, axis=1, dtype=np.float32), gram=gram, root=cholesky_root(gram))
    options = {"beta": 0.7, "sparsity": 0.75}
    size = score_matrix("magnitude", matrices, evidence, **options)
    np.testing.assert_allclose(size, np.abs(update), rtol=1e-5, atol=1e-6)
    wanda = score_matrix("wanda", matrices, evidence, **options)
    np.testing.assert_allclose(wanda, np.abs(update) * np.linalg.norm(inputs, axis=1), rtol=1e-4, atol=1e-5)
    rank = max(1, round(min(d, k) * 0.25))
    u = np.linalg.svd(update @ inputs)[0][:, :rank]
    low_rank = score_matrix("low_rank", matrices, evidence, **options)
    np.testing.assert_allclose(low_rank, np.abs(u @ u.T @ update), rtol=1e-2, atol=2e-3)  # float32 Gram matrices


def test_random_scores_come_from_the_key():
    matrices, _ = draw((5, 7))
    one, same, other = (
        score_matrix("random", matrices, Evidence(), beta=0.0, sparsity=0.9, key=jax.random.key(seed))
        for seed in (0, 0, 1)
    )
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_comparison():
    matrices, random = draw((5, 7))
    mask = random.random((5, 7)) < 0.5
    reference = reference_matrix(matrices, 0.5)
    found = compare_matrix(matrices, reference, mask, np.float32(0.5))
    one = mask * (np.float64(matrices.aligned) - matrices.pretrained)
    two = mask * (np.float64(matrices.finetuned) - matrices.aligned)
    cosine = np.sum(one * two) / np.linalg.norm(one) / np.linalg.norm(two)
    np.testing.assert_allclose(found.similarity, cosine, atol=1e-5)
    change = np.linalg.norm(mask * (np.float64(reference) - matrices.finetuned))
    np.testing.assert_allclose(found.change, change, rtol=1e-5)
    assert found.changed == np.count_nonzero(mask)
    whole = np.linalg.norm(np.float64(matrices.aligned) - matrices.pretrained)
    np.testing.assert_allclose(found.taken, np.linalg.norm(one) / whole, rtol=1e-5)
    alone = compare_matrix(matrices._replace(pretrained=None), matrices.aligned, mask, np.float32(0.0))
    assert alone.zero_norm
    assert alone.taken == 0
    assert alone.similarity == 0
