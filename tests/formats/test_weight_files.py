"""Folders whose weight files are not in order: the tensors that transformers takes, and a note that says so."""

import json
import shutil

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

import nlsr_jax
from nlsr_jax.errors import InputError
from nlsr_jax.formats.hugging_face import check_weights, read_config
from tests.judge_files import save_classifier
from tests.parity.peers import peer_logits, save_peer, tokens

LARGEST = 1e-4
"""As in the tests of parity."""
ONE, INDEX = "model.safetensors", "model.safetensors.index.json"
EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit(path, change):
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def edit_map(folder, change):
    index = json.loads((folder / INDEX).read_text())
    change(index["weight_map"])
    (folder / INDEX).write_text(json.dumps(index))


def shards(folder):
    return sorted(folder.glob("model-*.safetensors"))


def loaded_as_transformers(folder, dtype="float32"):
    """Check a folder's logits against transformers'; return the model and the notes."""
    from transformers import AutoModelForCausalLM

    notes = []
    model, params = nlsr_jax.load_model(folder, dtype=jnp.dtype(dtype), note=notes.append)
    peer = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
    for ours, theirs in ((params["embed"], peer.get_input_embeddings()), (head_of(params), peer.lm_head)):
        np.testing.assert_array_equal(np.asarray(ours, np.float32), theirs.weight.detach().float().numpy())
    if dtype == "float32":
        ids = tokens(0, 2, 9)
        assert np.abs(np.asarray(nlsr_jax.logits(model, params, ids)) - peer_logits(peer, ids)).max() < LARGEST
    return model, notes


def head_of(params):
    return params.get("lm_head", params["embed"])


@pytest.fixture
def tied(tmp_path):
    """A tied model of which the file holds the head too, as the embedding is."""
    save_peer("qwen25_tied", tmp_path)
    edit(tmp_path / ONE, lambda t: t.update({HEAD: t[EMBED].copy()}))
    return tmp_path


@pytest.fixture
def plain(tmp_path):
    save_peer("llama2", tmp_path)
    return tmp_path


@pytest.fixture
def sharded(tmp_path):
    save_peer("llama2", tmp_path, max_shard_size="30KB")
    return tmp_path


def nudge(name, place=(-1, -1)):
    def change(tensors):
        tensors[name] = tensors[name].copy()
        tensors[name][place] += 1

    return change


def halve(name, kind=np.float16):
    return lambda tensors: tensors.update({name: tensors[name].astype(kind)})


def test_a_head_that_differs_from_the_embedding_is_used_for_itself(tied):
    edit(tied / ONE, nudge(HEAD))
    model, notes = loaded_as_transformers(tied)
    assert not model.config.tied
    assert len(notes) == 1
    assert notes[0].startswith(f"{tied}/config.json says tie_word_embeddings, but lm_head.weight differs from")


def test_a_note_is_a_warning_where_nobody_takes_it(tied):
    edit(tied / ONE, nudge(HEAD))
    with pytest.warns(UserWarning, match=r"lm_head\.weight differs from model\.embed_tokens\.weight") as caught:
        nlsr_jax.load_model(tied)
    assert caught[0].filename == __file__


def test_a_head_that_is_the_embedding_stays_tied_without_a_note(tied):
    model, notes = loaded_as_transformers(tied)
    assert model.config.tied
    assert notes == []


@pytest.mark.parametrize(("dtype", "equal"), [("float32", False), ("float16", True), ("bfloat16", False)])
def test_a_head_of_another_type_is_compared_in_the_type_that_is_read(tied, dtype, equal):
    edit(tied / ONE, halve(HEAD))
    model, notes = loaded_as_transformers(tied, dtype)
    assert model.config.tied is equal
    assert len(notes) == (not equal)


def test_a_head_of_another_type_with_the_same_numbers_is_the_embedding(tied):
    edit(tied / ONE, halve(EMBED, ml_dtypes.bfloat16))
    edit(tied / ONE, lambda t: t.update({HEAD: t[EMBED].astype(np.float32)}))
    model, notes = loaded_as_transformers(tied)
    assert model.config.tied
    assert notes == []


def test_a_head_without_an_embedding_is_the_embedding(tied):
    edit(tied / ONE, nudge(HEAD))
    edit(tied / ONE, lambda t: t.pop(EMBED))
    model, notes = loaded_as_transformers(tied)
    assert model.config.tied
    assert "hold lm_head.weight alone: it is the embedding too" in notes[0]


def test_a_tied_model_in_shards_with_another_head(tmp_path):
    save_peer("llama32_tied", tmp_path, max_shard_size="20KB")
    head = load_file(next(p for p in shards(tmp_path) if EMBED in load_file(p)))[EMBED] * np.float32(-0.5)
    save_file({HEAD: head}, tmp_path / "model-head.safetensors")
    edit_map(tmp_path, lambda m: m.update({HEAD: "model-head.safetensors"}))
    model, notes = loaded_as_transformers(tmp_path)
    assert not model.config.tied
    assert "lm_head.weight differs" in notes[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.update({HEAD: t[HEAD][:-1].copy()}),
            r"lm_head\.weight is \[96, 32\]; the config says \[97, 32\]",
        ),
        (lambda t: t.update({HEAD: t[HEAD].astype(np.int8)}), r"lm_head\.weight has type I8; expected floats"),
    ],
)
def test_a_head_that_cannot_be_one_is_refused(tied, change, message):
    edit(tied / ONE, change)
    for read in (nlsr_jax.load_model, lambda folder: check_weights(folder, read_config(folder))):
        with pytest.raises(InputError, match=message):
            read(tied)


@pytest.mark.parametrize("said", [False, None, "absent"])
def test_without_a_head_and_not_tied_is_refused(plain, said):
    """transformers makes such a head up at random."""
    edit(plain / ONE, lambda t: t.pop(HEAD))
    edit_config(plain, tie_word_embeddings=said)
    if said == "absent":
        config = json.loads((plain / "config.json").read_text())
        del config["tie_word_embeddings"]
        (plain / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"lm_head\.weight is missing, and config\.json does not say tie_word_emb"):
        nlsr_jax.load_model(plain)


def test_the_default_of_every_family_is_not_tied(tmp_path):
    for variant in ("llama2", "mistral", "qwen2", "qwen3_biases"):
        save_peer(variant, tmp_path / variant)
        path = tmp_path / variant / "config.json"
        path.write_text(
            json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "tie_word_embeddings"})
        )
        model, notes = loaded_as_transformers(tmp_path / variant)
        assert not model.config.tied
        assert notes == []


def scaled(folder, other, factor=2):
    """Copy the weights of a folder into another, all multiplied."""
    tensors = load_file(folder / ONE)
    save_file({n: v * np.float32(factor) for n, v in tensors.items()}, other / ONE, metadata={"format": "pt"})


def test_one_file_comes_before_an_index_and_its_shards(sharded, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    save_peer("llama2", other)
    scaled(other, sharded)
    _, notes = loaded_as_transformers(sharded)
    assert notes == [
        f"{sharded}: model-00001-of-00005.safetensors and 5 more: not read, as in transformers; "
        "model.safetensors comes first"
    ]


@pytest.mark.parametrize("index", [None, "not JSON", "{}"])
def test_one_file_comes_before_an_index_whose_shards_are_gone(plain, index):
    gone = json.dumps({"metadata": {}, "weight_map": {HEAD: "model-00001-of-00002.safetensors"}})
    (plain / INDEX).write_text(gone if index is None else index)
    _, notes = loaded_as_transformers(plain)
    assert f"{INDEX}: not read, as in transformers" in notes[0]


@pytest.mark.parametrize("name", ["model.fp16.safetensors", "model-00003-of-00009.safetensors"])
def test_variants_and_left_over_shards_are_not_read(plain, name):
    save_file({"x": np.ones(3, np.float32)}, plain / name)
    _, notes = loaded_as_transformers(plain)
    assert notes == [f"{plain}: {name}: not read, as in transformers; model.safetensors comes first"]


def test_shards_of_an_older_index_are_not_read(sharded):
    for path in shards(sharded):
        shutil.copy(path, path.with_name(path.name.replace("-of-00005", "-of-00007")))
    _, notes = loaded_as_transformers(sharded)
    assert notes == [
        f"{sharded}: model-00001-of-00007.safetensors and 4 more: not read, as in transformers; "
        "the index does not name them"
    ]


def test_a_variant_alone_is_named(plain):
    (plain / ONE).rename(plain / "model.fp16.safetensors")
    with pytest.raises(InputError, match=r"no model\.safetensors and no .*index\.json, only model\.fp16"):
        nlsr_jax.load_model(plain)


def test_of_a_tensor_in_two_shards_the_last_counts(sharded):
    first, *_, last = shards(sharded)
    name = next(iter(load_file(last)))
    edit(first, lambda t: t.update({name: load_file(last)[name] * np.float32(3)}))
    edit_map(sharded, lambda m: m.update({name: first.name}))
    _, notes = loaded_as_transformers(sharded)
    assert f"{name} is in {first.name} and {last.name}: the last of them counts" in notes[0]
    edit(last, lambda t: t.update({name: t[name] * np.float32(-2)}))
    loaded_as_transformers(sharded)


def test_a_tensor_that_the_index_does_not_name_is_read(sharded):
    edit_map(sharded, lambda m: m.pop("model.norm.weight"))
    _, notes = loaded_as_transformers(sharded)
    assert "holds model.norm.weight, which the index does not name; the shards decide" in notes[0]


def test_a_tensor_in_another_shard_than_the_index_says_is_read(sharded):
    first, *_, last = shards(sharded)
    name = next(iter(load_file(last)))
    edit_map(sharded, lambda m: m.update({name: first.name}))
    _, notes = loaded_as_transformers(sharded)
    assert f"{name} is in {last.name} and not in {first.name}; the shards decide" in notes[0]


def test_a_name_of_the_index_that_no_shard_holds(sharded):
    edit_map(sharded, lambda m: m.update({"model.rotary_emb.inv_freq": shards(sharded)[0].name}))
    _, notes = loaded_as_transformers(sharded)
    assert "no shard holds model.rotary_emb.inv_freq, which the index names" in notes[0]
    edit(shards(sharded)[-1], lambda t: t.pop("model.norm.weight"))
    with pytest.raises(InputError, match=r"weight model\.norm\.weight is missing"):
        nlsr_jax.load_model(sharded, note=lambda _: None)


def test_classifiers_take_the_same_files(tmp_path):
    from nlsr_jax.models.classifier import load_classifier

    save_classifier(tmp_path / "judge")
    (tmp_path / "judge" / INDEX).write_text("{}")
    notes = []
    load_classifier(tmp_path / "judge", note=notes.append)
    assert f"{INDEX}: not read" in notes[0]
