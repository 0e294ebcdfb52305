"""Generation reads weights in three ways, by size and depth: all of them make the tokens of a whole pass."""

import dataclasses
import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nlsr_jax
from nlsr_jax.errors import InputError
from nlsr_jax.models import projection
from nlsr_jax.models.projection import join
from tests.oracles import random_adapter
from tests.parity.peers import save_peer, tokens

generation = importlib.import_module("nlsr_jax.models.generate")  # the package has the function under this name
STEPS = 5
WAYS = {"layers apart": {}, "stacked": {"_APART": 0}, "as they are": {"MERGED_BYTES": 0}}

PAIRS = pytest.mark.parametrize(
    ("model", "way"),
    [("qwen2", "layers apart"), ("llama2", "stacked"), ("qwen3", "as they are")],
    indirect=True,
)
"""Every way and every family, where nothing depends on both."""


@pytest.fixture(scope="module", params=["llama2", "qwen2", "qwen3"])
def model(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    save_peer(request.param, folder)
    return nlsr_jax.load_model(folder)


@pytest.fixture(params=WAYS)
def way(request, monkeypatch):
    for name, value in WAYS[request.param].items():
        monkeypatch.setattr(projection if name == "MERGED_BYTES" else generation, name, value)
    generation._generate.clear_cache()
    yield request.param
    generation._generate.clear_cache()


@pytest.mark.parametrize(
    ("model", "way"),
    [*PAIRS.args[1], ("qwen2", "stacked"), ("qwen2", "as they are"), ("llama2", "layers apart")],
    indirect=True,
)
def test_tokens_are_those_of_a_whole_pass_with_an_adapter(model, way):
    assert_those_of_a_whole_pass(model, adapted=True)


@PAIRS
def test_tokens_are_those_of_a_whole_pass(model, way):
    assert_those_of_a_whole_pass(model, adapted=False)


def assert_those_of_a_whole_pass(model, adapted):
    c = model[0].config
    sizes = {name: c.projections()[name] for name in ("q_proj", "o_proj", "gate_proj", "down_proj")}
    adapter = random_adapter(3, layers=c.num_layers, rank=4, sizes=sizes) if adapted else None
    ids = tokens(0, 3, 9)
    found = nlsr_jax.generate(*model, ids, adapter=adapter, max_new_tokens=STEPS)
    whole = np.concatenate([ids, found], axis=1)
    scores = nlsr_jax.logits(*model, whole[:, :-1], adapter=adapter)
    np.testing.assert_array_equal(found, np.argmax(scores[:, -STEPS:], axis=-1))


@PAIRS
def test_prompts_of_one_token(model, way):
    ids = tokens(0, 6, 1)
    for steps in (1, STEPS) if way == "layers apart" else (1,):
        found = np.asarray(nlsr_jax.generate(*model, ids, max_new_tokens=steps))
        whole = np.concatenate([ids, found], axis=1)
        scores = nlsr_jax.logits(*model, whole[:, :-1])
        np.testing.assert_array_equal(found, np.argmax(scores[:, -steps:], axis=-1))


def several_adapters(config):
    """Adapters of other modules, ranks and scalings, the second of one layer alone."""
    every = config.projections()
    sizes = [every, {name: every[name] for name in ("k_proj", "down_proj")}, {"q_proj": every["q_proj"]}]
    found = [random_adapter(i, layers=config.num_layers, rank=2 + i, sizes=one) for i, one in enumerate(sizes)]
    last = jax.tree.map(lambda leaf: leaf[:1], found[1])
    return [found[0], dataclasses.replace(last, layers={"k_proj": (1,), "down_proj": (1,)}), found[2]]


@pytest.mark.parametrize(("model", "way"), [("qwen2", "layers apart"), ("qwen3", "as they are")], indirect=True)
def test_several_adapters_make_the_tokens_of_single_calls(model, way):
    """Layers apart and in a loop; all pairs make the tokens of a whole pass above; one pair draws."""
    adapters = several_adapters(model[0].config)
    ids, mask = tokens(0, 2, 9), np.array([[True] * 9, [False] * 4 + [True] * 5])
    drawn = {"temperature": 0.7, "key": jax.random.key(3), "eos_id": list(range(20))}
    for options in ({}, drawn) if way == "as they are" else ({},):
        found = nlsr_jax.generate(
            *model, ids, adapter=adapters, attention_mask=mask, max_new_tokens=STEPS, **options
        )
        single = [
            nlsr_jax.generate(*model, ids, adapter=one, attention_mask=mask, max_new_tokens=STEPS, **options)
            for one in adapters
        ]
        assert found.shape == (3, 2, STEPS)
        np.testing.assert_array_equal(found, np.stack(single))
    assert len(np.unique(np.asarray(found).reshape(3, -1), axis=0)) == 3


@pytest.mark.parametrize(("model", "way"), [("qwen2", "layers apart"), ("llama2", "stacked")], indirect=True)
def test_a_prefix_makes_the_tokens_of_whole_prompts(model, way):
    """Of padded prompts, with an adapter, and with several in one pass."""
    ids, mask = tokens(0, 3, 12), np.ones((3, 12), bool)
    ids[:, :5] = ids[0, :5]
    rest, kept = ids[:, 5:].copy(), mask[:, 5:].copy()
    rest[1, :3], kept[1, :3] = 0, False
    alone = np.concatenate([ids[1, :5], rest[1, 3:]])
    adapters = several_adapters(model[0].config)[:2]
    for adapter in (adapters,) if way == "stacked" else (adapters[0], adapters):
        options = {"adapter": adapter, "max_new_tokens": STEPS}
        found = np.asarray(
            nlsr_jax.generate(*model, rest, attention_mask=kept, prefix=ids[0, :5], **options)
        ).reshape(-1, 3, STEPS)
        whole = np.asarray(nlsr_jax.generate(*model, ids, **options)).reshape(-1, 3, STEPS)
        single = np.asarray(nlsr_jax.generate(*model, alone[None], **options)).reshape(-1, STEPS)
        np.testing.assert_array_equal(found[:, [0, 2]], whole[:, [0, 2]])
        np.testing.assert_array_equal(found[:, 1], single)


def test_a_prefix_that_cannot_be_shared_is_refused(model):
    net, params = model
    far = dataclasses.replace(net, attention="fused")
    assert generation.shares_prefix(net) is (net.config.window is None)
    for one, prefix in ((far, [1, 2]), (net, []), (net, [[1, 2]])):
        with pytest.raises(InputError, match="prefix must be a vector"):
            nlsr_jax.generate(one, params, tokens(0, 2, 4), max_new_tokens=1, prefix=prefix)


def test_several_adapters_have_the_logits_of_single_calls(model):
    adapters = several_adapters(model[0].config)
    ids = tokens(1, 2, 6)
    found = nlsr_jax.logits(*model, ids, adapter=(one for one in adapters))
    single = np.stack([nlsr_jax.logits(*model, ids, adapter=one) for one in adapters])
    np.testing.assert_allclose(found, single, atol=2e-5 * np.abs(single).max())


def test_several_adapters_that_cannot_be_are_refused(model):
    net, params = model
    ids = tokens(0, 1, 3)
    with pytest.raises(InputError, match="adapters is empty"):
        nlsr_jax.generate(net, params, ids, adapter=[], max_new_tokens=1)
    for wrong, message in (
        (
            [None, several_adapters(net.config)[0]],
            "adapter 0 of 2 is a NoneType; expected an Adapter .the base alone",
        ),
        ("some/folder", "adapter is a str; expected an Adapter"),
        (several_adapters(net.config)[0].factors, "adapter is a dict; expected an Adapter"),
        (3, "adapter is a int; expected an Adapter"),
    ):
        for call in (nlsr_jax.logits, functools.partial(nlsr_jax.generate, max_new_tokens=1)):
            with pytest.raises(InputError, match=message):
                call(net, params, ids, adapter=wrong)
    adapters = several_adapters(net.config)
    adapters[1] = random_adapter(
        0, layers=net.config.num_layers + 1, sizes={"q_proj": net.config.projections()["q_proj"]}
    )
    with pytest.raises(InputError, match=r"adapter 1: q_proj has \d layers"):
        nlsr_jax.logits(net, params, ids, adapter=adapters)
    spread = dataclasses.replace(net, layout=object())
    with pytest.raises(InputError, match="run on one device"):
        nlsr_jax.logits(spread, params, ids, adapter=adapters[:1])


def test_joined_weights_are_the_models_side_by_side(model):
    net, params = model
    found, layers = join(params, net.config.tied), params["layers"]
    np.testing.assert_array_equal(found["head"], params["embed" if net.config.tied else "lm_head"].T)
    for name, leaf in found["layers"].items():
        kind = "bias" if name.endswith("_bias") else "kernel"
        parts = [np.asarray(layers[one][kind]) for one in name.removesuffix("_bias").split("+")]
        expected = np.concatenate(parts, axis=1)
        np.testing.assert_array_equal(leaf, expected if kind == "bias" else expected.swapaxes(1, 2))
    assert ("q_proj+k_proj+v_proj_bias" in found["layers"]) == net.config.qkv_bias


def test_weights_that_would_be_twice_in_memory_are_not_joined(model, monkeypatch):
    monkeypatch.setattr(projection, "MERGED_BYTES", 1000)
    assert join(model[1], model[0].config.tied) == {}


@pytest.mark.parametrize(
    "values", [[1.0, 3.0, 3.0], [-np.inf, -np.inf, -1.0], [0.0, 0.0, 0.0], [-np.inf] * 3, [1.0, np.nan, 2.0]]
)
def test_of_equal_scores_the_first_is_taken(values):
    scores = jnp.asarray([values, values[::-1]], jnp.float32)
    np.testing.assert_array_equal(generation._first_greatest(scores), jnp.argmax(scores, axis=-1))
