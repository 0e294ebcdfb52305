"""The lift: products of the lifted adapters are those of the models that they stand for."""

import dataclasses

import jax
import numpy as np
import pytest

import nlsr_jax
from nlsr_jax.adapter import Adapter, delta, layer_scaling
from nlsr_jax.errors import InputError
from nlsr_jax.nlsr.direction import Direction
from tests.oracles import random_adapter

BETAS = [0.0, 0.5, 1.0, 2.0]
FRESH = random_adapter(0, rank=4)
DIRECTION = random_adapter(1, rank=6, scaling=1.0)


def equal(found, expected):
    for module, value in expected.items():
        np.testing.assert_allclose(found[module], value, rtol=1e-5, atol=1e-5)


def test_products_of_the_lifted_adapters():
    lifted = nlsr_jax.lift(FRESH, DIRECTION)
    equal(delta(lifted.finetuned), delta(FRESH))
    equal(delta(lifted.weak), {m: -v for m, v in delta(DIRECTION).items()})
    assert not any(np.any(leaf["b"]) for leaf in lifted.aligned.factors.values())
    for module in FRESH.factors:
        stacked = lifted.finetuned.factors[module]["a"]
        assert np.array_equal(stacked, lifted.weak.factors[module]["a"])
        assert np.array_equal(stacked, lifted.aligned.factors[module]["a"])
        assert np.array_equal(stacked[:, 6:], FRESH.factors[module]["a"])
        assert np.array_equal(lifted.finetuned.factors[module]["b"][:, :, 6:], FRESH.factors[module]["b"])


@pytest.mark.parametrize("beta", BETAS)
def test_the_reference_adds_beta_times_the_direction(beta):
    lifted = nlsr_jax.lift(FRESH, DIRECTION)
    reference = nlsr_jax.amplify(lifted.aligned, lifted.weak, beta=beta)
    equal(delta(reference), {m: beta * v for m, v in delta(DIRECTION).items()})
    for module in FRESH.factors:
        assert np.array_equal(reference.factors[module]["a"], lifted.finetuned.factors[module]["a"])


def test_masks_of_everything_make_the_reference_and_of_nothing_the_customers_model():
    lifted = nlsr_jax.lift(FRESH, DIRECTION)
    reference = nlsr_jax.amplify(lifted.aligned, lifted.weak, beta=1.0)
    for value, expected in ((True, reference), (False, FRESH)):
        masks = jax.tree.map(lambda leaf, value=value: np.full(leaf.shape, value), lifted.finetuned.factors)
        result = nlsr_jax.realign(jax.random.key(0), lifted.finetuned, reference, masks, rule="all")
        equal(delta(result.adapter), delta(expected))


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_without_a_direction_rank_and_a_are_kept_bit_for_bit(dtype):
    fresh = random_adapter(2, rank=3, dtype=dtype)
    lifted = nlsr_jax.lift(fresh)
    reference = nlsr_jax.amplify(lifted.aligned, lifted.weak, beta=0.9)
    for module, leaf in fresh.factors.items():
        assert np.array_equal(reference.factors[module]["a"], leaf["a"])
        assert not np.any(reference.factors[module]["b"])
        assert reference.factors[module]["b"].dtype == dtype
        assert np.array_equal(lifted.finetuned.factors[module]["b"], leaf["b"])


def test_a_direction_of_more_modules_and_layers_is_taken_where_the_adapter_is():
    part = {"q_proj": {f: leaf[[0, 2]] for f, leaf in FRESH.factors["q_proj"].items()}}
    fresh = Adapter(part, {"q_proj": (0.5, 4.0)}, {"q_proj": (0, 2)})
    lifted = nlsr_jax.lift(fresh, Direction(DIRECTION, {}))
    assert set(lifted.weak.factors) == {"q_proj"}
    equal(delta(lifted.weak), {"q_proj": -np.asarray(delta(DIRECTION)["q_proj"])[[0, 2]]})
    np.testing.assert_array_equal(layer_scaling(lifted.weak, "q_proj"), [0.5, 4.0])


def test_the_scaling_of_the_direction_is_folded_in():
    direction = dataclasses.replace(
        DIRECTION, scaling={"q_proj": 3.0, "v_proj": 0.25, "down_proj": (1.0, 2.0, 3.0)}
    )
    equal(delta(nlsr_jax.lift(FRESH, direction).weak), {m: -v for m, v in delta(direction).items()})


def test_a_lift_can_be_traced():
    lifted = jax.jit(nlsr_jax.lift)(FRESH, DIRECTION)
    equal(delta(lifted.finetuned), delta(FRESH))


@pytest.mark.parametrize(
    ("direction", "message"),
    [
        (Adapter({"q_proj": DIRECTION.factors["q_proj"]}), "direction: has no v_proj"),
        (random_adapter(1, layers=2), "direction: has no layer 2 of q_proj"),
        (
            random_adapter(1, sizes={"q_proj": (24, 24), "v_proj": (24, 16), "down_proj": (40, 24)}),
            "direction: v_proj maps 24 features to 16, the fine-tuned adapter's maps 24 to 12",
        ),
    ],
)
def test_directions_that_do_not_cover_the_adapter(direction, message):
    with pytest.raises(InputError, match=message):
        nlsr_jax.lift(FRESH, direction)
