"""Statistics and low-rank projection against float64 SVD of explicit activations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from nlsr_jax import hardware
from nlsr_jax.errors import InputError
from nlsr_jax.nlsr.identify import identify
from nlsr_jax.nlsr.low_rank import kept_rank, project_low_rank
from nlsr_jax.nlsr.statistics import (
    Statistics,
    cholesky_root,
    init_statistics,
    merge,
    statistics_from_activations,
    update_root,
)
from tests.oracles import activations, project, random_adapter

REFERENCE = random_adapter(3)


def errors(reference, inputs, statistics, sparsity):
    """Relative error of every Ŵ, in order."""
    found = project_low_rank(reference, statistics, sparsity=sparsity)
    values = []
    for module, leaf in reference.factors.items():
        for layer in range(leaf["a"].shape[0]):
            a, b, x = leaf["a"][layer], leaf["b"][layer], inputs[module][layer]
            kept = kept_rank(a.shape[0], sparsity)
            # The Q of a QR turns no left singular vector.
            z = np.linalg.qr(np.float64(x) @ np.float64(a).T, mode="r")
            for weight, data, name in ((a, x, "a"), (b, z, "b")):
                expected = project(weight, data, kept)
                got = np.float64(found.factors[module][name][layer])
                values.append(np.linalg.norm(got - expected) / np.linalg.norm(expected))
    return values


def separated(seed, positions=1000, rank=8):
    """Inputs that excite the rank directions of ``REFERENCE`` with singular values two apart."""
    rng = np.random.default_rng(seed)
    inputs = {}
    for module, leaf in REFERENCE.factors.items():
        z = rng.normal(size=(3, positions, rank)) * 1.5 ** -np.arange(rank)
        inputs[module] = (z @ np.linalg.pinv(np.float64(leaf["a"])).transpose(0, 2, 1)).astype(np.float32)
    return inputs


def test_projection_of_separated_spectra():
    inputs = separated(0)
    statistics = statistics_from_activations(REFERENCE, inputs)
    # The acceptance bound for well-conditioned spectra.
    assert max(errors(REFERENCE, inputs, statistics, 0.7)) < 1e-5


@pytest.mark.parametrize(("decay", "sparsity"), [(0.1, 0.5), (0.5, 0.8)])
def test_projection_of_decaying_spectra(decay, sparsity):
    inputs = activations(1, REFERENCE, 2000, decay)
    statistics = statistics_from_activations(REFERENCE, inputs)
    # The acceptance bound for decaying spectra.
    assert max(errors(REFERENCE, inputs, statistics, sparsity)) < 1e-3


def test_root_resolves_what_the_gram_matrix_cannot():
    reference = random_adapter(5, layers=1, rank=24, sizes={"q_proj": (48, 48)})
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.normal(size=(24, 24)))[0]
    z = (np.linalg.qr(rng.normal(size=(4000, 24)))[0] * 10.0 ** (-np.arange(24) / 2.5)) @ turn
    x = z @ np.linalg.pinv(np.float64(reference.factors["q_proj"]["a"][0])).T
    inputs = {"q_proj": x[None].astype(np.float32)}
    statistics = statistics_from_activations(reference, inputs)
    # r* = 10: the tenth singular value is 2.5e-4 of the first, its square is at float32's rounding.
    by_root = errors(reference, inputs, statistics, 0.6)
    broken = statistics._replace(root=jax.tree.map(jnp.zeros_like, statistics.root))
    by_gram = errors(reference, inputs, broken, 0.6)
    assert max(by_root) < 1e-3
    assert max(by_gram) > 10 * max(by_root)


def test_gram_and_squares_are_the_masked_sums():
    inputs = activations(2, REFERENCE, 300)
    rng = np.random.default_rng(0)
    keep = {m: rng.random(x.shape[:2]) < 0.4 for m, x in inputs.items()}
    statistics = statistics_from_activations(REFERENCE, inputs, keep)
    for module, x in inputs.items():
        x = np.float64(x) * keep[module][..., None]
        z = x @ np.float64(REFERENCE.factors[module]["a"]).transpose(0, 2, 1)
        gram = z.transpose(0, 2, 1) @ z
        # Float32 sums of 300 terms.
        assert_allclose(statistics.gram[module], gram, rtol=1e-4, atol=1e-5 * gram.max())
        assert_allclose(statistics.input_square[module], (x**2).sum(1), rtol=1e-5)
        root = np.float64(statistics.root[module])
        assert np.linalg.norm(root.transpose(0, 2, 1) @ root - gram) < 1e-5 * np.linalg.norm(gram)


def test_modules_that_read_the_same_array_have_the_statistics_of_copies():
    x = activations(5, REFERENCE, 90)
    shared = {"q_proj": x["q_proj"], "v_proj": x["q_proj"], "down_proj": x["down_proj"]}
    apart = {module: array.copy() for module, array in shared.items()}
    keep = np.random.default_rng(1).random(x["q_proj"].shape[:2]) < 0.5
    kept = {"q_proj": keep, "v_proj": keep, "down_proj": keep.copy()}
    for masks in (None, kept):
        found = statistics_from_activations(REFERENCE, shared, masks)
        expected = statistics_from_activations(REFERENCE, apart, masks)
        jax.tree.map(lambda one, other: assert_allclose(one, other, rtol=1e-4, atol=1e-2), found, expected)
    for read, product in ((shared, True), (apart, False)):
        text = str(jax.make_jaxpr(lambda read=read: statistics_from_activations(REFERENCE, read))())
        assert ("f32[90,16]" in text) == product  # both modules' rank of 8 at once
    # The same inputs with other masks are not the same.
    other = statistics_from_activations(REFERENCE, shared, {**kept, "v_proj": ~keep})
    total = found.input_square["q_proj"] + other.input_square["v_proj"]
    assert_allclose(total, np.sum(np.square(shared["q_proj"]), axis=1), rtol=1e-4)


def test_inputs_may_be_read_each_time_they_are_asked_for(tmp_path):
    inputs = activations(5, REFERENCE, 40)
    np.savez(tmp_path / "inputs.npz", **inputs)
    found = statistics_from_activations(REFERENCE, np.load(tmp_path / "inputs.npz"))
    expected = statistics_from_activations(REFERENCE, inputs)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_input_squares_only_where_they_are_asked_for():
    inputs = activations(2, REFERENCE, 60)
    statistics = statistics_from_activations(REFERENCE, inputs, input_squares=False)
    assert statistics.input_square == {}
    whole = statistics_from_activations(REFERENCE, inputs)
    jax.tree.map(np.testing.assert_array_equal, statistics.root, whole.root)
    jax.tree.map(np.testing.assert_array_equal, identify(REFERENCE, statistics), identify(REFERENCE, whole))
    assert merge(statistics, statistics).input_square == {}
    with pytest.raises(InputError, match="one of the statistics has input_square and the other has not"):
        merge(whole, statistics)
    with pytest.raises(InputError, match="input_squares=True"):
        identify(REFERENCE, statistics, method="wanda")


def test_parts_combine_to_the_whole():
    inputs = activations(4, REFERENCE, 400)
    halves = [{m: x[:, part] for m, x in inputs.items()} for part in (slice(0, 150), slice(150, 400))]
    whole = statistics_from_activations(REFERENCE, inputs)
    first, second = (statistics_from_activations(REFERENCE, half) for half in halves)
    both = merge(first, second)
    assert float(both.positions) == 400
    for module in inputs:
        scale = float(jnp.max(jnp.abs(whole.gram[module])))
        assert_allclose(both.gram[module], whole.gram[module], atol=1e-5 * scale)
        assert_allclose(both.input_square[module], whole.input_square[module], rtol=1e-5)
    assert max(errors(REFERENCE, inputs, both, 0.6)) < 1e-3
    # Plain addition of the sums is legal too: the root is then made from the Gram matrix.
    added = jax.tree.map(jnp.add, first, second)
    assert max(errors(REFERENCE, inputs, added, 0.6)) < 1e-3


def test_no_data_is_the_identity_of_merging():
    inputs = activations(4, REFERENCE, 100)
    statistics = statistics_from_activations(REFERENCE, inputs)
    merged = merge(init_statistics(REFERENCE), statistics)
    for module in inputs:
        assert_allclose(merged.gram[module], statistics.gram[module])
    assert max(errors(REFERENCE, inputs, merged, 0.6)) < 1e-3


def test_projector_is_idempotent_and_does_not_grow():
    inputs = activations(6, REFERENCE, 200)
    statistics = statistics_from_activations(REFERENCE, inputs)
    once = project_low_rank(REFERENCE, statistics, sparsity=0.6)
    for module, leaf in once.factors.items():
        for name in "ab":
            before = np.linalg.norm(REFERENCE.factors[module][name], axis=(1, 2))
            assert (np.linalg.norm(leaf[name], axis=(1, 2)) <= before * (1 + 1e-5)).all()
            ranks = np.linalg.matrix_rank(np.float64(leaf[name]), tol=1e-4)
            assert (ranks == kept_rank(8, 0.6)).all()


def test_zero_factor_and_too_few_positions_stay_finite():
    reference = random_adapter(7)
    reference.factors["q_proj"]["b"][:] = 0
    inputs = activations(8, reference, 1)
    statistics = statistics_from_activations(reference, inputs)
    found = project_low_rank(reference, statistics, sparsity=0.5)
    for leaf in jax.tree.leaves(found):
        assert np.isfinite(leaf).all()
    empty = Statistics(*jax.tree.map(jnp.zeros_like, tuple(statistics)))
    for leaf in jax.tree.leaves(project_low_rank(reference, empty, sparsity=0.5)):
        assert np.isfinite(leaf).all()


def test_root_is_triangular_for_any_number_of_rows():
    rng = np.random.default_rng(0)
    for rows in (0, 1, 5, 50):
        data = jnp.asarray(rng.normal(size=(rows, 6)), jnp.float32)
        root = np.asarray(update_root(jnp.zeros((6, 6)), data))
        assert_allclose(np.tril(root, -1), 0)
        gram = np.float64(data).T @ np.float64(data)
        assert_allclose(root.T @ root, gram, atol=1e-5 * max(1.0, gram.max()))


def spread(seed, rows, rank, condition):
    """Rows ``[rows, rank]`` of float64 with singular values from 1 down to ``1 / condition``."""
    rng = np.random.default_rng(seed)
    left, right = (np.linalg.qr(rng.normal(size=(n, rank)))[0] for n in (rows, rank))
    return left * np.geomspace(1, 1 / condition, rank) @ right.T


@pytest.mark.parametrize("condition", [1.5, 20.0, 1e5])
def test_root_of_many_rows_is_accurate_whatever_their_condition(condition):
    rows = spread(0, 4100, 64, condition)
    root = np.asarray(update_root(jnp.zeros((64, 64)), jnp.asarray(rows, jnp.float32)), np.float64)
    assert_allclose(np.tril(root, -1), 0)
    found, expected = (np.linalg.svd(x, compute_uv=False) for x in (root, rows.astype(np.float32)))
    # Float32's rounding, 6e-8 of the largest, beside the smallest.
    assert_allclose(found, expected, rtol=2e-5 if condition < 100 else 1e-6 * condition)
    # Rows that come after others.
    more = np.concatenate([spread(1, 4100, 64, 3.0), rows]).astype(np.float32)
    root = np.asarray(update_root(update_root(jnp.zeros((64, 64)), more[:4100]), more[4100:]), np.float64)
    found, expected = (np.linalg.svd(x, compute_uv=False) for x in (root, more))
    assert_allclose(found, expected, rtol=2e-5)


@pytest.mark.parametrize("scale", [1e-14, 1e10])
def test_root_of_many_rows_has_their_scale(scale):
    rows = (spread(0, 4100, 64, 3.0) * scale).astype(np.float32)
    root = np.asarray(update_root(jnp.zeros((64, 64)), rows), np.float64)
    found, expected = (np.linalg.svd(np.float64(x), compute_uv=False) for x in (root, rows))
    assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize(("rank", "own"), [(16, 1), (64, 0.5), (128, 0.5)])
def test_root_of_rows_of_lower_rank_is_finite(rank, own):
    """Eigenvalues of 0 come out below it in some of these, where Cholesky's factorisation ends in NaN."""
    for seed in range(4):
        rng = np.random.default_rng(seed)
        kept = max(1, int(own * rank) - 1)
        rows = (rng.normal(size=(300, kept)) @ rng.normal(size=(kept, rank))).astype(np.float32)
        root = np.asarray(update_root(jnp.zeros((rank, rank)), rows), np.float64)
        found, expected = (np.linalg.svd(np.float64(x), compute_uv=False)[:kept] for x in (root, rows))
        assert_allclose(np.tril(root, -1), 0)
        assert (np.diagonal(root) >= 0).all()
        assert_allclose(found, expected, atol=2e-6 * expected[0])


@pytest.mark.parametrize("condition", [2.0, 20.0])
def test_root_is_corrected_where_its_gram_matrix_is_ill_conditioned(condition, monkeypatch):
    rows = jnp.asarray(spread(1, 4100, 64, condition), jnp.float32)
    found = np.asarray(update_root(jnp.zeros((64, 64)), rows))
    monkeypatch.setattr(hardware, "branches", lambda rank: False)
    corrected = np.asarray(update_root(jnp.zeros((64, 64)), rows))
    plain = np.asarray(cholesky_root(rows.T @ rows, float(jnp.finfo(jnp.float32).eps) / 64))
    nearer, other = (plain, corrected) if condition == 2 else (corrected, plain)
    assert np.abs(found - nearer).max() < 0.3 * np.abs(found - other).max()


@pytest.mark.parametrize(("condition_a", "condition_b", "sparsity"), [(3, 1e4, 0.2), (1e4, 3, 0.8)])
def test_projection_of_large_ranks(condition_a, condition_b, sparsity):
    reference = random_adapter(5, layers=2, rank=64, sizes={"q_proj": (96, 4200), "down_proj": (96, 80)})
    for leaf in reference.factors.values():
        leaf["b"] = np.stack([spread(i, x.shape[0], 64, condition_b) for i, x in enumerate(leaf["b"])])
        leaf["b"] = leaf["b"].astype(np.float32)
    inputs = {}
    for module, leaf in reference.factors.items():
        z = np.stack([spread(9 + i, 4300, 64, condition_a) for i in range(2)])
        inputs[module] = (z @ np.linalg.pinv(np.float64(leaf["a"])).transpose(0, 2, 1)).astype(np.float32)
    statistics = statistics_from_activations(reference, inputs)
    assert max(errors(reference, inputs, statistics, sparsity)) < 3e-5
    # Layers in a program of their own, as a run on files has them.
    masks = identify(reference, statistics, sparsity=sparsity)
    scores = project_low_rank(reference, statistics, sparsity=sparsity).factors
    for module, leaf in masks.items():
        for name, mask in leaf.items():
            for marked, score in zip(np.asarray(mask), np.abs(scores[module][name]), strict=True):
                count = round((1 - sparsity) * marked.size)
                assert marked.sum() == count
                assert np.mean((score >= np.sort(score, axis=None)[-count]) == marked) > 0.999


@pytest.mark.parametrize(("sparsity", "width"), [(0.2, 80), (0.8, 4200)])
def test_large_rank_without_data_or_factor(sparsity, width):
    reference = random_adapter(7, layers=1, rank=64, sizes={"q_proj": (96, width)})
    statistics = statistics_from_activations(reference, activations(8, reference, 5))
    empty = Statistics(*jax.tree.map(jnp.zeros_like, tuple(statistics)))
    found = project_low_rank(reference, empty, sparsity=sparsity)
    assert not found.factors["q_proj"]["b"].any()
    assert np.isfinite(found.factors["q_proj"]["a"]).all()
    reference.factors["q_proj"]["b"][:] = 0
    for one in (statistics, empty):
        found = project_low_rank(reference, one, sparsity=sparsity)
        assert not found.factors["q_proj"]["b"].any()
        assert np.isfinite(found.factors["q_proj"]["a"]).all()


@pytest.mark.parametrize(("rank", "own", "width"), [(16, 0.6, 4200), (64, 1.0, 80)])
def test_no_more_directions_than_positions(rank, own, width):
    reference = random_adapter(7, layers=1, rank=rank, sizes={"q_proj": (96, width)})
    leaf = reference.factors["q_proj"]
    rest = np.random.default_rng(1).normal(size=(int(own * rank), rank))
    leaf["b"] = (leaf["b"][..., : len(rest)] @ rest).astype(np.float32)
    inputs = activations(8, reference, 5)
    statistics = statistics_from_activations(reference, inputs)
    found = project_low_rank(reference, statistics, sparsity=0.2).factors["q_proj"]["b"][0]
    expected = project(leaf["b"][0], inputs["q_proj"][0] @ np.float64(leaf["a"][0]).T, 5)
    assert np.linalg.norm(found - expected) < 1e-4 * np.linalg.norm(expected)


@pytest.mark.parametrize("scale", [1e-12])
def test_projection_of_small_factors(scale):
    reference = random_adapter(5, layers=1, rank=64, sizes={"q_proj": (96, 4200)})
    reference.factors["q_proj"]["b"] *= np.float32(scale)
    inputs = activations(3, reference, 4300)
    statistics = statistics_from_activations(reference, inputs)
    assert max(errors(reference, inputs, statistics, 0.5)) < 1e-4
