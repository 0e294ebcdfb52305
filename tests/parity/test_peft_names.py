"""Names of tensors that PEFT would pass over: read with a note, written with the names by which PEFT loads all."""

import json
import logging
import warnings

import numpy as np
import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.numpy import load_file, save_file

import nlsr_jax
from nlsr_jax.errors import InputError
from nlsr_jax.formats.peft import AdapterWriter, open_adapter
from nlsr_jax.formats.peft_keys import parse_key
from tests.parity.peers import COMMON, make_peer, peer_logits, tokens

WEIGHTS = "adapter_model.safetensors"
W = "base_model.model."
MODULES = {"target_modules": ["q_proj", "v_proj", "up_proj"]}
NESTED = {"target_modules": r"model\.layers\.(0|2)\.self_attn\.(q|v)_proj"}
DEEP = {"target_modules": r"base_model\.model\.model\.layers\.(0|2)\.self_attn\.(q|v)_proj"}


def llama():
    return make_peer("llama2")


def other(family, **changes):
    """A tiny model of a family that has no Flax model here."""

    def make():
        torch.manual_seed(0)
        config = getattr(transformers, f"{family}Config")(**{**COMMON, **changes})
        head = "LMHeadModel" if family == "GPT2" else "ForCausalLM"
        return getattr(transformers, f"{family}{head}")(config).eval()

    return make


GPT2 = other("GPT2", n_embd=32, n_layer=3, n_head=4, n_positions=32)
PHI3 = other("Phi3")
OPT = other("OPT", ffn_dim=48, word_embed_proj_dim=32)
NEOX = other("GPTNeoX")


def save_peft(make, folder, rename=lambda name: name, **changes):
    """Save an adapter with random factors under names that ``rename`` gives; returns the PEFT model."""
    torch.manual_seed(1)
    config = LoraConfig(**{"r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM", **changes})
    peer = get_peft_model(make(), config).eval()
    with torch.no_grad():
        for name, weight in peer.named_parameters():
            if "lora_" in name:
                weight.copy_(torch.randn_like(weight) * 0.2)
    peer.save_pretrained(folder)
    tensors = load_file(folder / WEIGHTS)
    save_file({rename(name): value for name, value in tensors.items()}, folder / WEIGHTS)
    return peer


def load_strictly(make, folder):
    """What PEFT loads, with an error for every key that is missing."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        peer = PeftModel.from_pretrained(make(), folder).eval()
    assert not [str(w.message) for w in caught if "missing" in str(w.message) or "nexpected" in str(w.message)]
    return peer


def rewritten(source, target):
    """Write an adapter that was read in its own way; returns its notes."""
    file = open_adapter(source)
    nlsr_jax.save_adapter(file.load(), target, layout=file.layout)
    return file.notes


def inside(name):
    return W + name.replace(".self_attn.", "._checkpoint_wrapped_module.self_attn.").replace(
        "model.layers", "model._fsdp_wrapped_module.layers"
    )


RENAMES = {
    "twice": (MODULES, lambda name: W + name, "base_model.model. stands in them 2 times"),
    "four times": (MODULES, lambda name: 3 * W + name, "base_model.model. stands in them 4 times"),
    "twice and a regular expression": (NESTED, lambda name: W + name, "2 times"),
    "twice and layers": (
        {"target_modules": ["q_proj"], "layers_to_transform": [1]},
        lambda name: W + name,
        "2 times",
    ),
    "bare": (MODULES, lambda name: name.removeprefix(W), "base_model.model. is missing"),
    "adapter's name": (
        MODULES,
        lambda name: name.replace(".weight", ".policy.weight"),
        "name policy is left in them",
    ),
    "sharded": (MODULES, inside, "_fsdp_wrapped_module is left in them"),
    "compiled": (MODULES, lambda name: f"module._orig_mod.{name}", "_orig_mod is left in them"),
    "with a value head": (MODULES, lambda name: f"pretrained_model.{name}", "pretrained_model is left in them"),
}


@pytest.mark.parametrize("kind", RENAMES)
def test_odd_names_are_read_with_a_note_and_written_plainly(tmp_path, kind):
    changes, rename, message = RENAMES[kind]
    expected = peer_logits(save_peft(llama, tmp_path / "odd", rename, **changes), tokens(0, 2, 9))
    (note,) = rewritten(tmp_path / "odd", tmp_path / "kept")
    assert message in note
    assert "PEFT would load nothing" in note
    nlsr_jax.save_adapter(nlsr_jax.load_adapter(tmp_path / "odd"), tmp_path / "new")
    assert np.abs(peer_logits(llama(), tokens(0, 2, 9)) - expected).max() > 0.1
    for part in ("kept", "new"):
        found = peer_logits(load_strictly(llama, tmp_path / part), tokens(0, 2, 9))
        np.testing.assert_array_equal(found, expected)
        assert all(name.startswith(f"{W}model.layers.") for name in load_file(tmp_path / part / WEIGHTS))


def test_the_note_is_logged(tmp_path, caplog):
    save_peft(llama, tmp_path / "odd", lambda name: W + name, **MODULES)
    with caplog.at_level(logging.WARNING):
        nlsr_jax.load_adapter(tmp_path / "odd")
    assert "written with the plain names" in caplog.text


def test_a_config_of_nested_paths_is_rewritten(tmp_path):
    save_peft(llama, tmp_path / "odd", lambda name: W + name, **NESTED)
    path = tmp_path / "odd" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **DEEP}))
    expected = nlsr_jax.load_adapter(tmp_path / "odd")
    rewritten(tmp_path / "odd", tmp_path / "kept")
    load_strictly(llama, tmp_path / "kept")
    found = open_adapter(tmp_path / "kept")
    assert not found.notes
    np.testing.assert_array_equal(found.load().factors["q_proj"]["a"], expected.factors["q_proj"]["a"])


BASES = {
    "phi3": (PHI3, {"target_modules": ["qkv_proj", "gate_up_proj", "o_proj"], "rank_pattern": {"qkv_proj": 6}}),
    "phi3 all-linear": (PHI3, {"target_modules": "all-linear"}),
    "gpt2": (GPT2, {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}),
    "gpt2 layers": (
        GPT2,
        {"target_modules": ["c_attn", "mlp.c_proj"], "layers_to_transform": [0, 2], "fan_in_fan_out": True},
    ),
    "opt": (OPT, {"target_modules": ["q_proj", "out_proj", "fc1"], "alpha_pattern": {"fc1": 3}}),
    "gpt_neox": (NEOX, {"target_modules": ["query_key_value", "dense_4h_to_h"]}),
}


@pytest.mark.parametrize("name", BASES)
def test_any_linear_layer_of_a_decoder_layer(tmp_path, name):
    make, changes = BASES[name]
    expected = peer_logits(save_peft(make, tmp_path / "theirs", lambda name: W + name, **changes), tokens(0, 2, 9))
    file = open_adapter(tmp_path / "theirs")
    adapter = file.load()
    wide = nlsr_jax.concatenate(adapter, adapter, (0.5, 0.5))
    for part, written in (("kept", adapter), ("wide", wide)):
        nlsr_jax.save_adapter(written, tmp_path / part, layout=file.layout)
        found = peer_logits(load_strictly(make, tmp_path / part), tokens(0, 2, 9))
        assert np.abs(found - expected).max() < 1e-4  # halves that are added again, in float32
    assert np.abs(peer_logits(make(), tokens(0, 2, 9)) - expected).max() > 1e-2


def test_layers_in_another_place_are_told(tmp_path, caplog):
    save_peft(GPT2, tmp_path / "theirs", target_modules=["c_attn"], fan_in_fan_out=True)
    with caplog.at_level(logging.WARNING):
        adapter = nlsr_jax.load_adapter(tmp_path / "theirs")
    assert "its layers are in transformer.h of the base" in caplog.text
    assert list(adapter.factors) == ["attn.c_attn"]


def test_modules_of_one_name_in_two_places_keep_their_own_rank(tmp_path):
    changes = {"target_modules": ["c_proj"], "rank_pattern": {r"mlp\.c_proj": 2}, "fan_in_fan_out": True}
    expected = peer_logits(save_peft(GPT2, tmp_path / "theirs", **changes), tokens(0, 2, 9))
    file = open_adapter(tmp_path / "theirs")
    adapter = file.load()
    assert {m: leaf["a"].shape[1] for m, leaf in adapter.factors.items()} == {"attn.c_proj": 4, "mlp.c_proj": 2}
    nlsr_jax.save_adapter(nlsr_jax.concatenate(adapter, adapter, (1.0, 0.0)), tmp_path / "wide", layout=file.layout)
    found = peer_logits(load_strictly(GPT2, tmp_path / "wide"), tokens(0, 2, 9))
    assert np.abs(found - expected).max() < 1e-5


def test_towers_are_told_from_the_decoder():
    key = parse_key("base_model.model.model.language_model.layers.7.self_attn.q_proj.lora_B.default.weight")
    assert key is not None
    assert (key.stack.prefix, key.stack.name, key.layer, key.module, key.factor) == (
        "model.language_model.",
        "layers",
        7,
        "q_proj",
        "b",
    )
    assert parse_key("base_model.model.model.layers.0.mlp.experts.3.up_proj.lora_A.weight").module == (
        "mlp.experts.3.up_proj"
    )
    assert parse_key("base_model.model.lm_head.lora_A.weight") is None


@pytest.mark.parametrize("change", ["config", "name"])
def test_what_peft_would_not_find_is_never_published(tmp_path, monkeypatch, change):
    save_peft(llama, tmp_path / "theirs", **MODULES)
    file = open_adapter(tmp_path / "theirs")
    if change == "config":
        monkeypatch.setattr("nlsr_jax.formats.peft.describes", lambda *_: True)
        file.layout.config["layers_to_transform"] = [0, 1]
    else:
        monkeypatch.setattr(
            "nlsr_jax.formats.peft.tensor_name", lambda stack, i, m, f: f"{W}{W}model.layers.{i}.x.{m}.lora_{f}"
        )
    with pytest.raises(
        InputError, match=r"config does not adapt|no LoRA factor|not a name that PEFT looks for|not a LoRA factor"
    ):
        nlsr_jax.save_adapter(file.load(), tmp_path / "ours", layout=file.layout)
    assert not (tmp_path / "ours").exists()


def test_a_writer_that_fails_says_why_it_failed(tmp_path):
    save_peft(llama, tmp_path / "theirs", **MODULES)
    file = open_adapter(tmp_path / "theirs")
    (tmp_path / "ours").mkdir()
    with pytest.raises(RuntimeError, match="of the block"), AdapterWriter(file.shapes(), tmp_path / "ours"):
        raise RuntimeError("of the block")
