"""Carried tensors in the model: what is refused, left out, laid over a mesh, and used for generation."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nlsr_jax
from nlsr_jax.architecture.config import parse_model_config
from nlsr_jax.errors import InputError
from nlsr_jax.formats.carried_fit import left_out, note_left_out
from nlsr_jax.formats.hugging_face import save_params
from nlsr_jax.models.llama import Llama
from nlsr_jax.training.initial import new_params
from tests.adapter_files import SIZES
from tests.carried_files import EMBEDDING, HEAD, WRAPPER, add, array, factors, save_plain
from tests.e2e.command import python

NAMES = sorted(SIZES)
IDS = np.arange(3, 15, dtype=np.int32)[None]


def make_model(tied=False):
    fields = {"model_type": "llama", "vocab_size": 50, "hidden_size": 32, "intermediate_size": 48}
    fields |= {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    model = Llama(parse_model_config({**fields, "tie_word_embeddings": tied}, "base"))
    return model, new_params(jax.random.key(0), model)


@pytest.fixture
def folder(tmp_path):
    return save_plain(tmp_path / "adapter")


def applied(base, folder):
    return nlsr_jax.apply_carried(*base, nlsr_jax.load_carried(folder))


def test_nothing_carried_is_the_same_model(folder):
    base = make_model()
    model, params = applied(base, folder)
    assert model is base[0]
    assert params is base[1]


def test_the_base_stays_as_it_is(folder):
    base = make_model(tied=True)
    before = jax.tree.map(np.array, base[1])
    weights = {f"{HEAD}.weight": array(0, 50, 32), f"{WRAPPER}model.norm.weight": array(1, 32)}
    add(folder, weights, modules_to_save=["lm_head", "norm"])
    model, params = applied(base, folder)
    jax.tree.map(np.testing.assert_array_equal, base[1], before)
    assert (base[0].config.tied, model.config.tied) == (True, False)
    np.testing.assert_array_equal(params["lm_head"], array(0, 50, 32))
    np.testing.assert_array_equal(params["norm"]["scale"], array(1, 32))
    np.testing.assert_array_equal(params["embed"], before["embed"])


@pytest.mark.parametrize("tied", [False, True])
def test_generation_and_the_forward_pass_use_the_same_ends(folder, tied):
    tensors = {f"{EMBEDDING}.weight": array(0, 50, 32), **factors("lm_head", 4, (32, 50))}
    add(folder, tensors, modules_to_save=["embed_tokens"], target_modules=[*NAMES, "lm_head"])
    model, params = applied(make_model(tied), folder)
    adapter = nlsr_jax.load_adapter(folder)
    made = nlsr_jax.generate(model, params, IDS, adapter=adapter, max_new_tokens=4)
    ids = np.asarray(IDS)
    for token in np.asarray(made)[0]:
        assert np.asarray(nlsr_jax.logits(model, params, ids, adapter))[0, -1].argmax() == token
        ids = np.concatenate([ids, [[token]]], axis=1).astype(np.int32)


def test_weights_of_sixteen_bits_keep_their_type(folder):
    tensors = {f"{EMBEDDING}.weight": array(0, 50, 32), **factors("lm_head", 4, (32, 50))}
    add(folder, tensors, modules_to_save=["embed_tokens"], target_modules=[*NAMES, "lm_head"])
    model, params = make_model()
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    _, found = nlsr_jax.apply_carried(model, params, nlsr_jax.load_carried(folder))
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype(jnp.bfloat16)}
    product = tensors[f"{HEAD}.lora_B.weight"] @ tensors[f"{HEAD}.lora_A.weight"] * np.float32(2)
    exact = np.asarray(params["lm_head"], np.float32) + product
    np.testing.assert_allclose(np.asarray(found["lm_head"], np.float32), exact, rtol=2**-8, atol=1e-6)


def test_of_what_the_base_does_not_have_is_said_so(folder):
    tensors = {
        **factors("model.vision_tower.layers.0.fc1", 4, (20, 20)),
        f"{WRAPPER}model.layers.0.self_attn.q_proj.base_layer.bias": array(0, 32),
        f"{WRAPPER}model.layers.1.self_attn.q_norm.weight": array(0, 8),
        f"{HEAD}.weight": array(0, 50, 32),
        f"{HEAD}.bias": array(0, 50),
    }
    add(folder, tensors, modules_to_save=["lm_head", "q_norm"], bias="all", target_modules=[*NAMES, "fc1"])
    base = make_model()
    carried = nlsr_jax.load_carried(folder)
    assert len(left_out(carried, base[0].config)) == 5
    (note,) = note_left_out(carried, base[0].config, "place")
    for part in ("lm_head (bias)", "fc1 (factors)", "q_proj (bias)", "q_norm", "leaves out"):
        assert part in note
    _, params = applied(base, folder)
    np.testing.assert_array_equal(params["lm_head"], array(0, 50, 32))
    kept = {name: leaf for name, leaf in params.items() if name != "lm_head"}
    jax.tree.map(np.testing.assert_array_equal, kept, {name: base[1][name] for name in kept})


def test_rows_of_the_head_count_where_the_config_names_them(folder):
    tensors = {f"{end}.token_adapter.trainable_tokens_delta": array(0, 2, 32) for end in (HEAD, EMBEDDING)}
    add(folder, tensors, trainable_token_indices=[5, 7])
    carried = nlsr_jax.load_carried(folder)
    assert [tensor.module for tensor in left_out(carried, make_model()[0].config)] == ["lm_head"]
    assert left_out(carried, make_model(tied=True)[0].config) == []


MORE, FEWER = 55, 40
REFUSED = {
    "another width": (
        {"tensors": {f"{HEAD}.weight": array(0, 50, 24)}, "modules_to_save": ["lm_head"]},
        "is [50, 24]; expected a matrix of 32 columns",
    ),
    "another norm": (
        {"tensors": {f"{WRAPPER}model.norm.weight": array(0, 24)}, "modules_to_save": ["norm"]},
        "is [24]; expected [32]",
    ),
    "not finite": (
        {"tensors": {f"{HEAD}.weight": np.full((50, 32), np.nan, np.float32)}, "modules_to_save": ["lm_head"]},
        "holds 1600 entries that are NaN or infinite",
    ),
    "quantised": (
        {"tensors": {f"{HEAD}.weight": np.zeros((50, 32), np.uint8)}, "modules_to_save": ["lm_head"]},
        "has type uint8; expected float32, float16 or bfloat16",
    ),
    "rows beyond": (
        {
            "tensors": {f"{EMBEDDING}.token_adapter.trainable_tokens_delta": array(0, 1, 32)},
            "trainable_token_indices": [50],
        },
        "names token 50; the vocabulary has 50",
    ),
    "a head of more tokens": (
        {"tensors": {f"{HEAD}.weight": array(0, MORE, 32)}, "modules_to_save": ["lm_head"]},
        "its vocabulary has 55 tokens, the base's 50, and the file does not hold the embedding",
    ),
    "an embedding of more tokens": (
        {"tensors": {f"{EMBEDDING}.weight": array(0, MORE, 32)}, "modules_to_save": ["embed_tokens"]},
        "does not hold the output head of the others",
    ),
    "two vocabularies": (
        {
            "tensors": {f"{HEAD}.weight": array(0, MORE, 32), f"{EMBEDDING}.weight": array(0, 50, 32)},
            "modules_to_save": ["lm_head", "embed_tokens"],
        },
        "tensors of different vocabularies",
    ),
}


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_the_model_is_refused(folder, case, tied):
    change, message = REFUSED[case]
    add(folder, **change)
    with pytest.raises(InputError) as caught:
        applied(make_model(tied), folder)
    assert message in str(caught.value)
    assert "adapter_model.safetensors" in str(caught.value)


def test_two_ends_of_the_base_that_differ_do_not_fit_a_tied_one(folder):
    """The vocabulary was resized in an untied model, and nothing was trained whole."""
    add(folder, {f"{HEAD}.weight": array(0, MORE, 32), f"{EMBEDDING}.weight": array(1, MORE, 32)})
    with pytest.raises(InputError, match="the base ties its output head to its embedding"):
        applied(make_model(tied=True), folder)
    model, params = applied(make_model(), folder)
    assert (model.config.vocab_size, params["embed"].shape, params["lm_head"].shape) == (55, (55, 32), (55, 32))


@pytest.mark.parametrize("tied", [False, True])
def test_a_copy_of_fewer_rows_cuts_the_other_end(folder, tied):
    add(folder, {f"{EMBEDDING}.weight": array(0, FEWER, 32)}, modules_to_save=["embed_tokens"])
    base = make_model(tied)
    model, params = applied(base, folder)
    assert model.config.vocab_size == FEWER
    np.testing.assert_array_equal(params["lm_head"], base[1]["embed" if tied else "lm_head"][:FEWER])
    assert nlsr_jax.logits(model, params, IDS).shape[-1] == FEWER
    with pytest.raises(InputError, match="the vocabulary has 40"):
        nlsr_jax.logits(model, params, IDS + 30)


MESH = """
import json, sys
import jax, numpy as np
import nlsr_jax
from nlsr_jax.parallel import make_mesh
base, adapter = sys.argv[1:]
mesh = make_mesh((2, 2, 2))
model, params = nlsr_jax.load_model(base, mesh=mesh)
model, params = nlsr_jax.apply_carried(model, params, nlsr_jax.load_carried(adapter))
assert all(len(leaf.sharding.device_set) == 8 for leaf in jax.tree.leaves(params))
ids = np.arange(3, 15, dtype=np.int32)[None]
found = nlsr_jax.logits(model, params, ids, nlsr_jax.load_adapter(adapter))
print(json.dumps(np.asarray(found, np.float64).tolist()))
"""


def test_over_a_mesh_it_is_the_same(folder, tmp_path):
    tensors = {
        f"{EMBEDDING}.token_adapter.trainable_tokens_delta": array(0, 2, 32),
        **factors("lm_head", 4, (32, 50)),
    }
    tensors |= {f"{WRAPPER}model.layers.1.input_layernorm.weight": array(3, 32)}
    tensors |= {f"{WRAPPER}model.layers.0.input_layernorm.weight": array(4, 32)}
    names = {"target_modules": [*NAMES, "lm_head"], "modules_to_save": ["input_layernorm"]}
    add(folder, tensors, trainable_token_indices=[5, 7], **names)
    base = make_model(tied=True)
    save_params(base[1], base[0].config, tmp_path / "base")
    expected = np.asarray(nlsr_jax.logits(*applied(base, folder), IDS, nlsr_jax.load_adapter(folder)))
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    found = json.loads(python("-c", MESH, tmp_path / "base", folder, env=flags).stdout)
    # The head's product, which the mesh splits, sums 32 numbers in float32.
    np.testing.assert_allclose(np.array(found), expected, atol=1e-5 * np.abs(expected).max())
