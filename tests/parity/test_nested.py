"""Language models inside models that see: their text alone, their adapters, and what is refused."""

import json

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

import nlsr_jax
from nlsr_jax.architecture.config import parse_model_config
from nlsr_jax.errors import InputError
from tests.parity.outer import OUTER, make_outer, save_outer
from tests.parity.peers import peer_logits, tokens

LARGEST = 1e-4


@pytest.mark.parametrize("name", list(OUTER))
def test_text_goes_through_as_in_transformers(tmp_path, name):
    peer = save_outer(name, tmp_path)
    model, params = nlsr_jax.load_model(tmp_path)
    ids = tokens(0, 2, 16)
    assert np.abs(np.asarray(nlsr_jax.logits(model, params, ids)) - peer_logits(peer, ids)).max() < LARGEST


@pytest.mark.parametrize("name", ["gemma3", "llava"])
def test_files_as_newer_transformers_name_them(tmp_path, name):
    from safetensors.numpy import load_file, save_file

    save_outer(name, tmp_path)
    model, params = nlsr_jax.load_model(tmp_path)
    file = tmp_path / "model.safetensors"
    renamed = {}
    for key, value in load_file(file).items():
        inside = key.replace("language_model.model.", "model.language_model.")
        renamed[inside.replace("language_model.lm_head", "lm_head")] = value
    assert set(renamed) != set(load_file(file))
    save_file(renamed, file)
    again = nlsr_jax.load_model(tmp_path)
    ids = tokens(1, 1, 8)
    np.testing.assert_array_equal(nlsr_jax.logits(*again, ids), nlsr_jax.logits(model, params, ids))


def test_an_adapter_of_the_language_model(tmp_path):
    save_outer("gemma3", tmp_path / "base")
    torch.manual_seed(1)
    targets = r".*language_model.*\.(q_proj|o_proj|down_proj)"
    peer = get_peft_model(make_outer("gemma3"), LoraConfig(r=4, task_type="CAUSAL_LM", target_modules=targets))
    with torch.no_grad():
        for path, weight in peer.named_parameters():
            if "lora_B" in path:
                weight.copy_(0.1 * torch.randn_like(weight))
    peer.eval().save_pretrained(tmp_path / "adapter")
    model, params = nlsr_jax.load_model(tmp_path / "base")
    adapter = nlsr_jax.load_adapter(tmp_path / "adapter", model.config)
    ids = tokens(2, 2, 12)
    ours, theirs = np.asarray(nlsr_jax.logits(model, params, ids, adapter)), peer_logits(peer, ids)
    assert np.abs(ours - theirs).max() < LARGEST
    assert np.abs(theirs - peer_logits(make_outer("gemma3"), ids)).max() > 0.1


def test_what_is_saved_is_the_language_model_alone(tmp_path):
    from transformers import AutoModelForCausalLM

    peer = save_outer("gemma3", tmp_path / "theirs")
    model, params = nlsr_jax.load_model(tmp_path / "theirs")
    nlsr_jax.models.save_model(model, params, tmp_path / "ours")
    assert json.loads((tmp_path / "ours" / "config.json").read_text())["model_type"] == "gemma3_text"
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "ours", attn_implementation="eager").eval()
    ids = tokens(3, 2, 12)
    np.testing.assert_allclose(peer_logits(again, ids), peer_logits(peer, ids), atol=1e-6)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "qwen2_vl", "text_config": {"model_type": "qwen2"}}, "model_type is 'qwen2_vl', whose"),
        ({"model_type": "paligemma", "text_config": {"model_type": "gemma"}}, "of such models those of gemma3"),
        ({"model_type": "llava", "text_config": {"model_type": "gpt2"}}, "model_type is 'gpt2'"),
        ({"model_type": "gemma3"}, "text_config is None"),
        ({"model_type": "llava", "text_config": {}, "architectures": ["X"]}, "architecture 'X'"),
    ],
)
def test_what_is_refused(config, message):
    with pytest.raises(InputError) as caught:
        parse_model_config(config, "config.json")
    assert message in str(caught.value)
