"""Many realignments in one program are, bit for bit, the single ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nlsr_jax import Adapter, identify, realign
from nlsr_jax.errors import InputError
from nlsr_jax.nlsr.many import realign_many

SIZES = {"q_proj": (3, 12, 10), "up_proj": (3, 12, 20), "down_proj": (2, 20, 12)}


def draw(seed, start=None):
    factors = {}
    for i, (module, (layers, k, d)) in enumerate(SIZES.items()):
        keys = jax.random.split(jax.random.key(100 * seed + i))
        factors[module] = {
            "a": jax.random.normal(keys[0], (layers, 4, k)),
            "b": jax.random.normal(keys[1], (layers, d, 4)),
        }
    if start is not None:
        factors = jax.tree.map(lambda x, y: x + 0.5 * y, start.factors, factors)
    return Adapter(factors, 2.0)


@pytest.fixture(scope="module")
def parts():
    reference = draw(1)
    return draw(2, reference), reference, identify(reference, method="magnitude", sparsity=0.7)


@pytest.mark.parametrize("increment", [0.4, -0.3])
def test_every_entry_is_the_single_realignment(parts, increment):
    keys, probabilities = jax.random.split(jax.random.key(5), 3), (0.0, 0.31, 0.7, 1.0)
    many = realign_many(keys, *parts, base_probabilities=probabilities, increment=increment)
    kinds = set()
    for i, base in enumerate(probabilities):
        for j, key in enumerate(keys):
            one = realign(key, *parts, base_probability=base, increment=increment)
            for module, leaf in one.adapter.factors.items():
                for factor, value in leaf.items():
                    np.testing.assert_array_equal(many.adapter.factors[module][factor][i, j], value)
                np.testing.assert_array_equal(many.pruned[module][i, j], one.pruned[module])
                np.testing.assert_array_equal(many.probability[module][i], one.probability[module])
                np.testing.assert_array_equal(many.similarity[module], one.similarity[module])
            kinds.add(tuple(np.concatenate([one.pruned[m] for m in SIZES]).tolist()))
    assert len(kinds) > 4, "they differ"
    assert many.adapter.scaling == 2.0


def test_sixteen_bit_adapters_keep_their_type(parts):
    finetuned, reference, masks = parts
    narrow = [
        Adapter(jax.tree.map(lambda x: x.astype(jnp.bfloat16), a.factors), 2.0) for a in (finetuned, reference)
    ]
    keys = jax.random.split(jax.random.key(5), 2)
    many = realign_many(keys, *narrow, masks, base_probabilities=(0.5,))
    one = realign(keys[1], *narrow, masks, base_probability=0.5)
    assert many.adapter.factors["q_proj"]["a"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(many.adapter.factors["q_proj"]["a"][0, 1], one.adapter.factors["q_proj"]["a"])


def test_what_is_no_list_of_keys_or_probabilities_is_refused(parts):
    keys = jax.random.split(jax.random.key(5), 2)
    for wrong in (keys[0], jnp.arange(4), keys[:0]):
        with pytest.raises(InputError, match="expected PRNG keys"):
            realign_many(wrong, *parts, base_probabilities=(0.5,))
    with pytest.raises(InputError, match="base_probabilities are empty"):
        realign_many(keys, *parts, base_probabilities=())
