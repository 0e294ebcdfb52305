"""Broken bases: one clear line that names the file and what to do."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import nlsr_jax
from nlsr_jax.errors import InputError
from tests.adapter_files import LFS
from tests.parity.peers import save_peer


@pytest.fixture
def base(tmp_path):
    save_peer("llama2", tmp_path / "base", max_shard_size="30KB")
    return tmp_path / "base"


def edit_index(folder, change):
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    change(index["weight_map"])
    path.write_text(json.dumps(index))


def edit_shard(folder, change):
    path = sorted(folder.glob("*.safetensors"))[0]
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def drop_norm(folder):
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    name = index["weight_map"]["model.norm.weight"]
    tensors = load_file(folder / name)
    del tensors["model.norm.weight"]
    save_file(tensors, folder / name)
    edit_index(folder, lambda m: m.pop("model.norm.weight"))


def first_shard(folder):
    return sorted(folder.glob("*.safetensors"))[0]


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda f: first_shard(f).unlink(), "no such file; expected safetensors"),
        (lambda f: first_shard(f).write_bytes(LFS), "a Git-LFS pointer"),
        (lambda f: first_shard(f).write_bytes(first_shard(f).read_bytes()[:100]), "truncated or damaged"),
        (drop_norm, "weight model.norm.weight is missing (1 of"),
        (lambda f: edit_index(f, lambda m: m.update({"x": "../secret.safetensors"})), "of this folder"),
        (lambda f: edit_index(f, lambda m: m.update({"x": "/etc/passwd"})), "of this folder"),
        (
            lambda f: edit_shard(f, lambda t: t.update({n: v.astype(np.int8) for n, v in t.items()})),
            "has type I8; expected floats",
        ),
        (
            lambda f: edit_shard(f, lambda t: t.update({n: v[..., :3].copy() for n, v in t.items()})),
            "the config says",
        ),
        (lambda f: (f / "config.json").unlink(), "no such file; expected the model config"),
        (lambda f: (f / "config.json").write_text("{"), "not JSON"),
    ],
)
def test_broken_bases(base, break_it, message):
    break_it(base)
    with pytest.raises(InputError) as caught:
        nlsr_jax.load_model(base)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bases_with_left_over_or_pickled_weights(tmp_path):
    save_peer("llama2", tmp_path / "one")
    path = tmp_path / "one" / "model.safetensors"
    tensors = load_file(path)
    save_file({**tensors, "model.layers.0.self_attn.rotary_emb.inv_freq": np.zeros(4, np.float32)}, path)
    nlsr_jax.load_model(tmp_path / "one")
    save_file({**tensors, "model.layers.0.moe.weight": np.zeros(4, np.float32)}, path)
    with pytest.raises(InputError, match=r"unexpected weight model\.layers\.0\.moe\.weight"):
        nlsr_jax.load_model(tmp_path / "one")
    path.rename(tmp_path / "one" / "pytorch_model.bin")
    with pytest.raises(InputError, match="pickles, which are never opened"):
        nlsr_jax.load_model(tmp_path / "one")


def test_names_of_a_bare_model_are_accepted(tmp_path):
    save_peer("llama2", tmp_path / "one")
    _, params = nlsr_jax.load_model(tmp_path / "one")
    path = tmp_path / "one" / "model.safetensors"
    save_file({name.removeprefix("model."): value for name, value in load_file(path).items()}, path)
    _, again = nlsr_jax.load_model(tmp_path / "one")
    np.testing.assert_array_equal(again["layers"]["q_proj"]["kernel"], params["layers"]["q_proj"]["kernel"])


def test_unknown_hub_ids_and_missing_folders(tmp_path):
    with pytest.raises(InputError, match="the hub cannot give it"):
        nlsr_jax.load_model("nobody/no-such-model")
    with pytest.raises(InputError, match=r"no such folder"):
        nlsr_jax.load_model(tmp_path / "absent")
