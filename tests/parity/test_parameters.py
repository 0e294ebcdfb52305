"""Factors of whole parameters (``target_parameters``): read, run, repaired and written as PEFT does."""

import dataclasses
import json
import warnings

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.numpy import load_file, save_file

import nlsr_jax
from nlsr_jax.errors import InputError
from nlsr_jax.formats.peft import open_adapter
from nlsr_jax.nlsr.settings import RECOMMENDED_ALONE
from nlsr_jax.pipeline import Settings, Stages, realign_files
from nlsr_jax.pipeline.verification import verify
from tests.parity.peers import make_peer, peer_logits, tokens
from tests.tiny_base import save_rows, save_tokenizer

GATE_UP, DOWN = "mlp.experts.gate_up_proj", "mlp.experts.down_proj"
WEIGHTS = "adapter_model.safetensors"
CONFIGS = {
    "both": {
        "target_modules": ["q_proj"],
        "target_parameters": [GATE_UP, DOWN],
        "rank_pattern": {DOWN: 2},
        "alpha_pattern": {r".*\.gate_up_proj": 9},
    },
    "one": {"target_modules": [], "target_parameters": ["down_proj"]},
    "some layers": {"target_modules": [], "target_parameters": [f"0.{GATE_UP}", f"2.{GATE_UP}", "q_proj.weight"]},
}
LARGEST = 1e-4
pytestmark = pytest.mark.filterwarnings("ignore:The following (rank|alpha)_pattern keys did not match")
"""PEFT says so of every pattern of a parameter, and applies it all the same."""


def adapted(variant, folder, config):
    """Save a base with a tokenizer, and an adapter with random factors; return PEFT's model of both."""
    make_peer(variant).save_pretrained(folder / "base")
    save_tokenizer(folder / "base")
    torch.manual_seed(1)
    peer = get_peft_model(make_peer(variant), LoraConfig(r=3, lora_alpha=6, task_type="CAUSAL_LM", **config)).eval()
    with torch.no_grad():
        for name, weight in peer.named_parameters():
            if "lora_" in name:
                weight.copy_(0.2 * torch.randn_like(weight))
    peer.save_pretrained(folder / "theirs")
    return peer


def loaded(variant, folder):
    """Return what PEFT loads, with an error for every tensor that is missing or left over."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=r".*(missing|unexpected) (adapter )?keys.*")
        return PeftModel.from_pretrained(make_peer(variant), folder).eval()


@pytest.mark.parametrize(("variant", "name"), [*(("mixtral", name) for name in CONFIGS), ("qwen3_moe", "both")])
def test_read_and_written_as_in_peft(tmp_path, variant, name):
    peer = adapted(variant, tmp_path, CONFIGS[name])
    model, params = nlsr_jax.load_model(tmp_path / "base")
    file = open_adapter(tmp_path / "theirs")
    adapter, ids = nlsr_jax.load_adapter(tmp_path / "theirs", model.config), tokens(0, 2, 16)
    ours, theirs = np.asarray(nlsr_jax.logits(model, params, ids, adapter)), peer_logits(peer, ids)
    assert np.abs(theirs - peer_logits(make_peer(variant), ids)).max() > 0.05
    assert np.abs(ours - theirs).max() < LARGEST
    nlsr_jax.save_adapter(adapter, tmp_path / "same", layout=file.layout)
    assert (tmp_path / "same" / WEIGHTS).read_bytes() == (tmp_path / "theirs" / WEIGHTS).read_bytes()
    named = [json.loads((tmp_path / one / "adapter_config.json").read_text()) for one in ("same", "theirs")]
    assert named[0]["target_parameters"] == named[1]["target_parameters"]
    nlsr_jax.save_adapter(nlsr_jax.truncate(adapter, 1), tmp_path / "other", layout=file.layout)
    again = nlsr_jax.load_adapter(tmp_path / "other", model.config)
    logits = np.asarray(nlsr_jax.logits(model, params, ids, again))
    assert np.abs(logits - peer_logits(loaded(variant, tmp_path / "other"), ids)).max() < LARGEST


@pytest.mark.parametrize("name", ["alone", pytest.param("turned", marks=pytest.mark.long)])
def test_repaired_with_and_without_a_direction(tmp_path, name):
    variant = "mixtral"
    adapted(variant, tmp_path, CONFIGS["both"])
    other = make_peer(variant)
    with torch.no_grad():
        for weight in other.parameters():
            weight.add_(0.02 * torch.randn_like(weight))
    other.save_pretrained(tmp_path / "pretrained")
    model, params = nlsr_jax.load_model(tmp_path / "base")
    rows, ids = save_rows(tmp_path / "rows.jsonl", 4), tokens(2, 2, 16)
    given = {
        **dataclasses.asdict(RECOMMENDED_ALONE),
        "base": str(tmp_path / "base"),
        "finetuned": str(tmp_path / "theirs"),
        "calibration": str(rows),
    }
    if name == "turned":
        given |= {"pretrained": str(tmp_path / "pretrained"), "beta": 1.0, "direction_rank": 2, "basis": "turned"}
    record = realign_files(Settings(**given), tmp_path / name, stages=Stages(False))
    experts = [entry for entry in record["modules"] if "experts.gate_up_proj." in entry["module"]]
    assert len(experts) == model.config.experts.count * model.config.num_layers
    adapter = nlsr_jax.load_adapter(tmp_path / name, model.config)
    ours = np.asarray(nlsr_jax.logits(model, params, ids, adapter))
    assert np.abs(ours - peer_logits(loaded(variant, tmp_path / name), ids)).max() < LARGEST
    if name == "turned":
        assert not verify(tmp_path / name, recompute=True).changed
        return
    before, after = (load_file(tmp_path / one / WEIGHTS) for one in ("theirs", name))
    assert after.keys() == before.keys()
    assert all(np.array_equal(after[key], before[key]) for key in after if "lora_A" in key)
    changed = [key for key in after if not np.array_equal(after[key], before[key])]
    assert any("experts" in key for key in changed)
    assert all(np.all((after[key] == before[key]) | (after[key] == 0)) for key in changed)


def test_sizes_that_contradict_the_config_are_refused(tmp_path):
    adapted("mixtral", tmp_path, CONFIGS["one"])
    file, config = tmp_path / "theirs" / WEIGHTS, tmp_path / "theirs" / "adapter_config.json"
    tensors, fields = load_file(file), json.loads(config.read_text())
    config.write_text(json.dumps(fields | {"target_parameters": [DOWN, GATE_UP]}))
    with pytest.raises(InputError, match=r"1 pairs of factors .* names down_proj, gate_up_proj"):
        open_adapter(tmp_path / "theirs")
    config.write_text(json.dumps(fields | {"r": 4}))
    with pytest.raises(InputError, match=r"has shape \[15, .*\], the config says rank 4; expected \[E r, k\]"):
        open_adapter(tmp_path / "theirs")
    config.write_text(json.dumps(fields))
    swapped = {}
    for key, value in tensors.items():  # as PEFT before 0.19.1 laid them out: A over the outputs
        d, k = tensors[key.replace("lora_A", "lora_B")].shape[0], tensors[key.replace("lora_B", "lora_A")].shape[1]
        shape = (value.shape[0], d) if "lora_A" in key else (k, value.shape[1])
        swapped[key] = np.ones(shape, np.float32)
    save_file(swapped, file)
    model, _ = nlsr_jax.load_model(tmp_path / "base")
    with pytest.raises(InputError, match=r"PEFT before 0\.19\.1 laid such factors out the other way round"):
        nlsr_jax.load_adapter(tmp_path / "theirs", model.config)
