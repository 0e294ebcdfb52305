"""The truncated SVD of a weight difference, against LAPACK's in float64."""

import jax
import numpy as np
import pytest

from nlsr_jax.nlsr.direction import factor_matrix


def low_rank(seed, d, k, rank):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((d, rank)) @ rng.standard_normal((rank, k)) / rank).astype(np.float32)


def relative(found, matrix):
    return np.linalg.norm(found - matrix) / np.linalg.norm(matrix)


@pytest.mark.parametrize(("d", "k"), [(48, 32), (32, 48), (700, 600), (600, 1400)])
def test_a_low_rank_difference_is_exact(d, k):
    matrix = low_rank(0, d, k, 6)
    a, b, residual = factor_matrix(jax.random.key(0), matrix, 8)
    assert a.shape == (8, k)
    assert b.shape == (d, 8)
    product = np.asarray(b, np.float64) @ np.asarray(a, np.float64)
    assert relative(product, matrix) < 1e-6
    assert residual < 1e-6


@pytest.mark.parametrize(("d", "k"), [(96, 64), (700, 900)])
@pytest.mark.parametrize("rank", [4, 24])
def test_the_residual_of_a_full_rank_difference_is_lapacks(d, k, rank):
    """A flat spectrum is the hardest for the randomised decomposition: half a per cent of the error is left."""
    matrix = np.random.default_rng(1).standard_normal((d, k)).astype(np.float32)
    _, _, residual = factor_matrix(jax.random.key(0), matrix, rank)
    s = np.linalg.svd(matrix.astype(np.float64), compute_uv=False)
    expected = np.sqrt(np.sum(s[rank:] ** 2) / np.sum(s**2))
    assert expected <= residual + 1e-6
    assert residual <= 1.005 * expected


def test_the_residual_of_a_decaying_spectrum_is_lapacks():
    """Weight differences of training have spectra that fall: four power iterations then leave 1e-4 of the error."""
    rng = np.random.default_rng(2)
    u, _ = np.linalg.qr(rng.standard_normal((800, 640)))
    v, _ = np.linalg.qr(rng.standard_normal((640, 640)))
    s = 1 / (1 + np.arange(640)) ** 0.7
    matrix = ((u * s) @ v.T).astype(np.float32)
    _, _, residual = factor_matrix(jax.random.key(0), matrix, 32)
    expected = np.sqrt(np.sum(s[32:] ** 2) / np.sum(s**2))
    np.testing.assert_allclose(residual, expected, rtol=2e-4)


def test_a_difference_of_nothing():
    a, b, residual = factor_matrix(jax.random.key(0), np.zeros((8, 6), np.float32), 2)
    assert not np.any(np.asarray(b) @ np.asarray(a))
    assert residual == 0


def test_the_same_key_gives_the_same_bytes():
    matrix = np.random.default_rng(3).standard_normal((700, 600)).astype(np.float32)
    first, second = (factor_matrix(jax.random.key(5), matrix, 8) for _ in range(2))
    assert all(np.array_equal(x, y) for x, y in zip(first, second, strict=True))
