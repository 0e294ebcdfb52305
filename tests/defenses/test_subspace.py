"""The engine of the defenses against float64 matrices of full size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nlsr_jax.adapter import Adapter, delta
from nlsr_jax.defenses.merging import weighted_sum
from nlsr_jax.defenses.subspace import choose_layers, decompose, exact_weights, fast_weights, project
from nlsr_jax.errors import InputError
from nlsr_jax.nlsr.similarity import product_cosine
from tests.oracles import random_adapter

# Float32 products of up to 16 terms after a QR and an SVD.
CLOSE = {"rtol": 2e-5, "atol": 2e-5}
ALIGNED = random_adapter(0)
FINETUNED = random_adapter(1)


def updates(adapter):
    return {m: np.asarray(value, np.float64) for m, value in delta(adapter).items()}


def test_decomposition_gives_the_update_back_with_orthonormal_vectors():
    for module, svd in decompose(ALIGNED).items():
        u, s, vt = (np.asarray(part, np.float64) for part in svd)
        np.testing.assert_allclose(u * s[:, None] @ vt, updates(ALIGNED)[module], **CLOSE)
        for basis in (u, np.swapaxes(vt, 1, 2)):
            np.testing.assert_allclose(
                np.swapaxes(basis, 1, 2) @ basis, np.eye(s.shape[-1])[None].repeat(3, 0), **CLOSE
            )
        np.testing.assert_allclose(s, np.linalg.svd(updates(ALIGNED)[module])[1][:, : s.shape[1]], **CLOSE)


@pytest.mark.parametrize("side", ["output", "input"])
@pytest.mark.parametrize("weights", [fast_weights, exact_weights])
def test_projection_is_that_of_the_full_matrices(side, weights):
    svds = decompose(ALIGNED)
    found = updates(project(FINETUNED, svds, {m: weights(svd) for m, svd in svds.items()}, side))
    for module, v in updates(ALIGNED).items():
        v = v if side == "output" else np.swapaxes(v, 1, 2)
        if weights is fast_weights:
            c = v @ np.swapaxes(v, 1, 2) / np.linalg.norm(v, axis=(1, 2), keepdims=True)
        else:
            c = v @ np.linalg.pinv(v, rcond=1e-5)
        w = updates(FINETUNED)[module]
        expected = c @ w if side == "output" else w @ c
        np.testing.assert_allclose(found[module], expected, rtol=1e-4, atol=1e-3)  # entries of some hundreds


def test_the_exact_projection_is_idempotent_and_keeps_what_lies_inside():
    svds = decompose(ALIGNED)
    weights = {m: exact_weights(svd) for m, svd in svds.items()}
    once = project(FINETUNED, svds, weights)
    twice = project(once, svds, weights)
    own = project(ALIGNED, svds, weights)
    for module in once.factors:
        np.testing.assert_allclose(twice.factors[module]["b"], once.factors[module]["b"], **CLOSE)
        np.testing.assert_allclose(own.factors[module]["b"], ALIGNED.factors[module]["b"], **CLOSE)


def test_noise_spans_no_subspace():
    b = np.zeros((1, 6, 2), np.float32)
    b[0, 0, 0], b[0, 1, 1] = 1.0, 1e-7
    adapter = Adapter({"q_proj": {"a": np.eye(2, 5, dtype=np.float32)[None], "b": b}})
    np.testing.assert_array_equal(exact_weights(decompose(adapter)["q_proj"]), [[1.0, 0.0]])
    zero = jax.tree.map(jnp.zeros_like, adapter)
    svd = decompose(zero)["q_proj"]
    np.testing.assert_array_equal(fast_weights(svd), [[0.0, 0.0]])
    np.testing.assert_array_equal(exact_weights(svd), [[0.0, 0.0]])


def test_an_unknown_side_is_refused():
    with pytest.raises(InputError, match="side is 'top'; expected one of output, input"):
        project(FINETUNED, decompose(ALIGNED), {}, "top")


def test_product_cosine_is_that_of_the_full_matrices():
    other = random_adapter(2, rank=5)
    for module, found in product_cosine(ALIGNED, other).items():
        v, w = updates(ALIGNED)[module], updates(other)[module]
        norm = np.linalg.norm(v, axis=(1, 2)) * np.linalg.norm(w, axis=(1, 2))
        np.testing.assert_allclose(found, (v * w).sum(axis=(1, 2)) / norm, **CLOSE)


def test_layers_are_chosen_bit_for_bit():
    chosen = {m: np.array([True, False, True]) for m in ALIGNED.factors}
    found = choose_layers(chosen, ALIGNED, FINETUNED)
    for module, leaf in found.factors.items():
        for factor, value in leaf.items():
            for layer, source in enumerate((ALIGNED, FINETUNED, ALIGNED)):
                assert (
                    np.asarray(value[layer]).tobytes()
                    == np.asarray(source.factors[module][factor][layer]).tobytes()
                )


def test_one_adapter_of_weight_one_is_itself():
    for space in ("factors", "product"):
        found = weighted_sum([ALIGNED], [1.0], space=space)
        jax.tree.map(np.testing.assert_array_equal, found, ALIGNED)


def test_the_exact_sum_is_that_of_the_full_matrices():
    weights = (1.0, 0.5, -0.3)
    adapters = (ALIGNED, random_adapter(5, rank=2), FINETUNED)
    found = updates(weighted_sum(adapters, weights))
    for module, value in found.items():
        expected = sum(w * updates(a)[module] for w, a in zip(weights, adapters, strict=True))
        np.testing.assert_allclose(value, expected, **CLOSE)


def test_the_sum_of_factors_is_pefts():
    found = weighted_sum((ALIGNED, FINETUNED), (0.8, -0.2), space="factors")
    for module, leaf in found.factors.items():
        one, two = ALIGNED.factors[module], FINETUNED.factors[module]
        np.testing.assert_allclose(leaf["a"], 0.8**0.5 * one["a"] + 0.2**0.5 * two["a"], rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(leaf["b"], 0.8**0.5 * one["b"] - 0.2**0.5 * two["b"], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"space": "sum"}, "space is 'sum'"),
        ({"weights": (1.0,)}, "1 weights for 2 adapters"),
        ({"adapters": (ALIGNED, random_adapter(0, rank=2)), "space": "factors"}, "the ranks differ"),
    ],
)
def test_sums_that_make_no_sense_are_refused(arguments, message):
    given = {"adapters": (ALIGNED, FINETUNED), "weights": (1.0, 1.0), **arguments}
    with pytest.raises(InputError, match=message):
        weighted_sum(**given)
