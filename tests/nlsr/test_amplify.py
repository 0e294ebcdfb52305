"""Pre-amplification against its formula, in factors and in product space."""

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from nlsr_jax.adapter import Adapter, concatenate, delta, truncate
from nlsr_jax.errors import InputError
from nlsr_jax.nlsr.amplify import amplify
from tests.oracles import mixed, random_adapter

ALIGNED = random_adapter(0)
WEAK = mixed(jax.tree.map(lambda x: 0.5 * x, ALIGNED), random_adapter(1), 0.1)


def full(adapter):
    return {m: np.float64(f["b"]) @ np.float64(f["a"]) * adapter.scaling for m, f in adapter.factors.items()}


@pytest.mark.parametrize("beta", [-0.4, 0.0, 0.9, 3.0])
def test_factors_follow_the_formula(beta):
    result = amplify(ALIGNED, WEAK, beta=beta)
    for module, leaf in result.factors.items():
        for name in "ab":
            strong, weak = ALIGNED.factors[module][name], WEAK.factors[module][name]
            # Two float32 operations on numbers of order 1.
            assert_allclose(leaf[name], strong + beta * (strong - weak), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("beta", [-0.4, 0.9])
def test_product_space_is_exact_by_concatenation(beta):
    result = amplify(ALIGNED, WEAK, beta=beta, space="product")
    assert result.factors["q_proj"]["a"].shape[1] == 16
    for module, value in full(result).items():
        expected = (1 + beta) * full(ALIGNED)[module] - beta * full(WEAK)[module]
        # Float32 rounding of the coefficients only, on products of order 10.
        assert_allclose(value, expected, atol=1e-5)


def test_without_weak_adapter_factors_scale_the_product_by_the_square():
    for space, power in (("factors", 2), ("product", 1)):
        result = full(amplify(ALIGNED, beta=0.9, space=space))
        for module, value in result.items():
            assert_allclose(value, 1.9**power * full(ALIGNED)[module], rtol=1e-4, atol=1e-4)


def test_interpolation_and_extrapolation_are_inverse():
    alpha = 0.6
    medium = amplify(ALIGNED, WEAK, beta=alpha - 1)
    strong = amplify(medium, WEAK, beta=(1 - alpha) / alpha)
    jax.tree.map(lambda x, y: assert_allclose(x, y, atol=1e-5), strong, ALIGNED)


def test_truncation_is_the_best_approximation():
    result = amplify(ALIGNED, WEAK, beta=0.7, space="product", rank=5)
    wide = full(amplify(ALIGNED, WEAK, beta=0.7, space="product"))
    for module, value in full(result).items():
        for layer in range(3):
            u, s, vt = np.linalg.svd(wide[module][layer])
            best = (u[:, :5] * s[:5]) @ vt[:5]
            # QR, SVD and one product in float32.
            assert np.linalg.norm(value[layer] - best) < 1e-5 * np.linalg.norm(best)


def test_truncation_to_the_same_rank_keeps_the_basis_of_the_aligned_adapter():
    result = amplify(ALIGNED, WEAK, beta=0.0, space="product", rank=8)
    # With β = 0 the product is the aligned one, so the factors must come back entry by entry.
    jax.tree.map(lambda x, y: assert_allclose(x, y, atol=1e-4), result, ALIGNED)


def test_truncation_without_overlap_stays_finite():
    other = jax.tree.map(lambda x: np.zeros_like(x), ALIGNED)
    result = amplify(other, WEAK, beta=0.5, space="product", rank=8)
    expected = full(WEAK)
    for module, value in full(result).items():
        assert_allclose(value, -0.5 * expected[module], atol=1e-3)


def test_scalings_of_different_adapters_meet_in_product_space():
    weak = Adapter(WEAK.factors, 0.5)
    result = delta(concatenate(ALIGNED, weak, (1.0, -1.0)))
    for module, value in result.items():
        assert_allclose(value, full(ALIGNED)[module] - full(weak)[module], atol=1e-4)


def test_one_program_serves_every_beta():
    from nlsr_jax.nlsr import amplify as module

    amplify(ALIGNED, WEAK, beta=0.1)
    before = module._amplify_factors._cache_size()
    amplify(ALIGNED, WEAK, beta=0.2)
    assert module._amplify_factors._cache_size() == before


def test_truncate_leaves_smaller_ranks_alone():
    result = truncate(ALIGNED, 100)
    jax.tree.map(assert_array_equal, result, ALIGNED)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"space": "weights"}, "space is 'weights'"),
        ({"rank": 0}, "rank is 0"),
        ({"weak": random_adapter(1, rank=4)}, "ranks differ"),
        ({"weak": random_adapter(1, scaling=1.0)}, "scaling of q_proj"),
        ({"weak": random_adapter(1, sizes={"q_proj": (24, 24)})}, "different modules: down_proj, v_proj"),
        ({"weak": random_adapter(1, layers=2), "space": "product"}, "different layers of q_proj"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(InputError, match=message):
        amplify(ALIGNED, **arguments)
