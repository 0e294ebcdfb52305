"""The benchmark of one layer in small: what it compares is the same work with the same result."""

import numpy as np
import pytest

from benchmarks import hot_paths, published

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def layer():
    return hot_paths.make_layer(0, 8, 64, 1 / 32)


@pytest.mark.parametrize("sparsity", [hot_paths.SPARSITY, 1 - hot_paths.SPARSITY])
def test_identification_is_exact(layer, sparsity):
    _, error = hot_paths.identification(layer, 1, sparsity)
    assert error < 1e-4


def test_the_peers_identification_is_exact_up_to_its_randomness(layer):
    import torch

    a, b = layer.first["k_proj"]
    inputs = layer.inputs["k_proj"]
    found = published.identify(*map(torch.from_numpy, (a, b, inputs)), 2)
    exact = hot_paths.exact_projection(a, b, inputs, 2)
    for one, other, read in zip(found, exact, (inputs, inputs @ a.T), strict=True):
        captured, most = (np.linalg.norm(weight @ read.T) for weight in (one.numpy(), other))
        assert 0.98 * most < captured < 1.001 * most


def test_masks_are_identical(layer):
    _, same = hot_paths.masks(layer, 1)
    assert same


def test_similarities_are_equal(layer):
    _, error = hot_paths.similarities(layer, 1)
    assert error < 1e-6
    one = [np.asarray(factor, np.float64) for factor in layer.first["k_proj"]]
    other = [np.asarray(factor, np.float64) for factor in layer.second["k_proj"]]
    products = [(b @ a).ravel() for a, b in (one, other)]
    expected = products[0] @ products[1] / np.prod([np.linalg.norm(product) for product in products])
    np.testing.assert_allclose(hot_paths.exact_cosine(one, other), expected)


def test_modules_that_read_the_same_share_their_inputs(layer):
    assert layer.inputs["q_proj"] is layer.inputs["v_proj"]
    assert layer.inputs["down_proj"].shape == (64, 448)
    assert layer.first["k_proj"][1].shape == (32, 8)


@pytest.mark.parametrize(("sparsity", "kept"), [(hot_paths.SPARSITY, 2), (1 - hot_paths.SPARSITY, 6)])
def test_the_limit_counts_the_products_of_the_work(layer, sparsity, kept, monkeypatch):
    found = []
    monkeypatch.setattr(hot_paths, "of_products", found.extend)
    hot_paths.identification_limit(layer, sparsity)
    widths = sum(a.shape[1] for a, _ in layer.first.values()), sum(len(b) for _, b in layer.first.values())
    projected = min(2 * kept, 8) * 8 * sum(widths)
    whole = 64 * 8 * widths[0] + 7 * 64 * 8 * 8 + 8 * 8 * widths[1] + projected
    assert sum(p.m * p.k * p.n * p.count for p in found) == whole
    found.clear()
    hot_paths.similarity_limit(layer)
    assert sum(p.m * p.k * p.n * p.count for p in found) == 3 * 8 * 8 * sum(widths)
