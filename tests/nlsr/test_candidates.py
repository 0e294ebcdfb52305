"""A fixed slot of the rank axis is never marked, and the rest is identified as if it were the whole adapter."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nlsr_jax
from nlsr_jax.errors import InputError
from nlsr_jax.nlsr.candidates import candidates_of
from nlsr_jax.nlsr.settings import METHODS
from tests.oracles import activations, random_adapter

FIXED = {"q_proj": 3, "v_proj": 2}  # none in down_proj


def evidence(reference, finetuned, gradients, method):
    inputs = {m: jnp.asarray(x) for m, x in activations(1, reference, 40).items()}
    return {
        "statistics": nlsr_jax.statistics_from_activations(reference, inputs),
        "gradients": gradients.factors if method in ("snip", "preference_snip", "gain") else None,
        "finetuned": finetuned if method == "gain" else None,
        "key": jax.random.key(0),
    }


def cut(adapter):
    return candidates_of(adapter, FIXED)


@pytest.mark.parametrize(
    ("method", "granularity"),
    [*((method, "tensor") for method in METHODS), ("magnitude", "row"), ("gain", "adapter"), ("snip", "adapter")],
)
def test_masks_are_those_of_the_adapter_without_the_slot(method, granularity):
    adapters = [random_adapter(seed) for seed in range(3)]
    reference = adapters[0]
    options = {"method": method, "granularity": granularity, "sparsity": 0.7}
    given = evidence(*adapters, method)
    masks = nlsr_jax.identify(reference, **given, **options, fixed=FIXED)
    own = evidence(*map(cut, adapters), method)
    expected = nlsr_jax.identify(cut(reference), **own, **options)
    for module, pair in masks.items():
        count = FIXED.get(module, 0)
        assert pair["a"].shape == reference.factors[module]["a"].shape
        assert not pair["a"][:, :count].any()
        assert not pair["b"][:, :, :count].any()
        assert np.mean(pair["a"][:, count:] == expected[module]["a"]) > 0.99  # roots differ by rounding
        assert np.mean(pair["b"][:, :, count:] == expected[module]["b"]) > 0.99
        if method != "gain":
            assert int(pair["b"].sum()) == int(expected[module]["b"].sum())


def test_a_slot_without_candidates_is_refused():
    with pytest.raises(InputError, match="fixed: q_proj has 8 places; expected 0 to 7"):
        nlsr_jax.identify(random_adapter(0), method="magnitude", fixed={"q_proj": 8})
