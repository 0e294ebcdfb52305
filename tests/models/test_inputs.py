"""What a caller may hand to the model functions, and what is refused by name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nlsr_jax
from nlsr_jax.calibration import collect_gradients, collect_loss_gradient
from nlsr_jax.calibration.openings import find_openings
from nlsr_jax.errors import InputError
from nlsr_jax.models.hidden_states import last_hidden_states
from nlsr_jax.models.likelihood import log_likelihood
from tests.parity.peers import save_peer, tokens


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    save_peer("llama2", folder)
    return folder


@pytest.fixture(scope="module")
def model(folder):
    return nlsr_jax.load_model(folder)


@pytest.mark.parametrize("kind", [int, np.int64, jnp.int32, lambda i: [i], lambda i: (np.int32(i),), np.atleast_1d])
def test_end_tokens_of_every_kind(model, kind):
    ids = tokens(0, 2, 5)
    free = np.asarray(nlsr_jax.generate(*model, ids, max_new_tokens=6))
    end = int(free[0, 2])
    found = np.asarray(nlsr_jax.generate(*model, ids, max_new_tokens=np.int32(6), eos_id=kind(end), pad_id=96))
    stop = np.flatnonzero(free[0] == end)[0] + 1
    np.testing.assert_array_equal(found[0, :stop], free[0, :stop])
    assert (found[0, stop:] == 96).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"eos_id": "12"}, "eos_id is '12'"),
        ({"eos_id": [1, 2.5]}, r"eos_id is \[1, 2.5\]"),
        ({"eos_id": True}, "eos_id is True"),
        ({"max_new_tokens": 3.0}, "max_new_tokens is 3.0"),
        ({"max_new_tokens": True}, "max_new_tokens is True"),
        ({"pad_id": 2**40}, "pad_id is 1099511627776"),
        ({"pad_id": np.int64(2**40)}, r"pad_id is np.int64\(1099511627776\)|pad_id is 1099511627776"),
        ({"pad_id": 1.5}, "pad_id is 1.5"),
        ({"temperature": float("nan"), "key": jax.random.key(0)}, "temperature is nan"),
        ({"attention_mask": [[True] * 5] * 2}, "attention_mask is a list; expected an array"),
    ],
)
def test_settings_of_a_wrong_kind_are_named(model, arguments, message):
    with pytest.raises(InputError, match=message):
        nlsr_jax.generate(*model, tokens(0, 2, 5), **{"max_new_tokens": 3, **arguments})


def test_lists_in_place_of_arrays_are_named(model):
    with pytest.raises(InputError, match="tokens is a list; expected an array"):
        nlsr_jax.logits(*model, tokens(0, 2, 5).tolist())
    adapter = nlsr_jax.Adapter({"q_proj": {"a": np.ones((3, 2, 32)), "b": np.ones((3, 32, 2))}})
    with pytest.raises(InputError, match="response_mask is a list; expected an array"):
        nlsr_jax.collect_statistics(*model, adapter, [(tokens(0, 2, 5), [[True] * 5] * 2)])


@pytest.mark.parametrize("dtype", [jnp.float32, "bfloat16", np.dtype(np.float16)])
def test_weights_have_the_type_asked_for(folder, dtype):
    _, params = nlsr_jax.load_model(folder, dtype=dtype)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(dtype)}


@pytest.mark.parametrize(("dtype", "name"), [(jnp.int8, "int8"), (np.float64, "float64"), ("half-ish", "half-ish")])
def test_types_that_would_round_the_weights_away_are_refused(folder, dtype, name):
    with pytest.raises(InputError, match=f"dtype is '{name}'; expected one of float32"):
        nlsr_jax.load_model(folder, dtype=dtype)


def test_logits_can_be_traced(model):
    llama, params = model
    ids = jnp.asarray(tokens(1, 2, 5))
    traced = jax.jit(lambda p, t: nlsr_jax.logits(llama, p, t))(params, ids)
    # The same program inside and outside of jit, up to how XLA fuses it.
    np.testing.assert_allclose(traced, nlsr_jax.logits(llama, params, ids), atol=1e-5)


ODD = {
    "above": [[5, 97]],
    "far above": [[5, 2**31 - 1]],
    "below": [[-1, 5]],
    "padding of -100": [[5, 6], [-100, 5]],
}


@pytest.mark.parametrize("kind", [np.asarray, jnp.asarray])
@pytest.mark.parametrize("name", ODD)
def test_tokens_that_the_embedding_has_not_are_refused_whatever_the_array(model, kind, name):
    ids = kind(ODD[name])
    low, high = int(np.min(ODD[name])), int(np.max(ODD[name]))
    llama, params = model
    adapter = nlsr_jax.Adapter({"q_proj": {"a": np.ones((3, 2, 32)), "b": np.ones((3, 32, 2))}})
    batch = (ids, np.ones(ids.shape, bool))
    calls = [
        lambda: nlsr_jax.logits(llama, params, ids),
        lambda: nlsr_jax.generate(llama, params, ids, max_new_tokens=2),
        lambda: nlsr_jax.collect_statistics(llama, params, adapter, [batch]),
        lambda: collect_gradients(llama, params, adapter, [batch]),
        lambda: collect_loss_gradient(llama, params, adapter, [batch]),
        lambda: log_likelihood(llama, params, ids, ids, np.ones(ids.shape, bool)),
        lambda: last_hidden_states(llama, params, ids, np.full(len(ids), 2)),
        lambda: find_openings(llama, [batch], depth=2),
    ]
    for call in calls:
        with pytest.raises(InputError, match=f"tokens run from {low} to {high}; the vocabulary has 97"):
            call()


def test_traced_tokens_are_not_looked_at(model):
    llama, params = model
    ids = jnp.asarray(tokens(1, 2, 5))
    made = jax.jit(lambda p, t: nlsr_jax.generate(llama, p, t, max_new_tokens=3))(params, ids)
    np.testing.assert_array_equal(made, nlsr_jax.generate(llama, params, ids, max_new_tokens=3))
    each = jax.vmap(lambda row: nlsr_jax.logits(llama, params, row[None]))(ids)
    np.testing.assert_allclose(each[:, 0], nlsr_jax.logits(llama, params, ids), atol=1e-5)
