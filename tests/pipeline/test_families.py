"""Bases of every family with adapters that PEFT made: run, measured, realigned, and loaded by PEFT again."""

import dataclasses

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

import nlsr_jax
from nlsr_jax.calibration.capture import collect_loss_gradient, collect_statistics
from nlsr_jax.modules import path_in_layer
from nlsr_jax.nlsr.settings import LIFTED_ALONE
from nlsr_jax.pipeline import Settings, realign_files
from nlsr_jax.pipeline.stages import Stages
from tests.parity.peers import make_peer, peer_logits, tokens
from tests.tiny_base import save_rows, save_tokenizer

SEVEN = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
TARGETS = {
    "gemma": SEVEN,
    "gemma2": SEVEN,
    "gemma3": SEVEN,
    "phi3": ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"],
    "olmo2": SEVEN,
    "qwen3_moe": SEVEN[:4],
    "mixtral": SEVEN[:4],
}
LARGEST = 1e-4


@pytest.fixture(scope="module", params=list(TARGETS))
def held(request, tmp_path_factory):
    """A base with a tokenizer, an adapter that PEFT made on it, and PEFT's model of both."""
    folder = tmp_path_factory.mktemp(request.param)
    make_peer(request.param).save_pretrained(folder / "base")
    save_tokenizer(folder / "base")
    torch.manual_seed(1)
    settings = LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", target_modules=TARGETS[request.param])
    peer = get_peft_model(make_peer(request.param), settings)
    peer.peft_config["default"].base_model_name_or_path = str(folder / "base")
    with torch.no_grad():
        for name, weight in peer.named_parameters():
            if "lora_B" in name:
                weight.copy_(0.05 * torch.randn_like(weight))
    peer.eval().save_pretrained(folder / "adapter")
    return request.param, folder, peer, *nlsr_jax.load_model(folder / "base")


def test_logits_with_an_adapter(held):
    variant, folder, peer, model, params = held
    adapter = nlsr_jax.load_adapter(folder / "adapter", model.config)
    assert set(adapter.factors) == set(TARGETS[variant])
    ids = tokens(0, 2, 16)
    assert np.abs(np.asarray(nlsr_jax.logits(model, params, ids, adapter)) - peer_logits(peer, ids)).max() < LARGEST


def test_statistics_are_those_of_the_modules_inputs(held):
    variant, folder, peer, model, params = held
    adapter = nlsr_jax.load_adapter(folder / "adapter", model.config)
    ids = tokens(1, 2, 10)
    keep = np.ones(ids.shape, bool)
    keep[:, :4] = False
    statistics = collect_statistics(model, params, adapter, [(ids, keep)])
    seen = {}

    def watch(name):
        return lambda module, inputs, _: seen.__setitem__(name, inputs[0].detach().numpy())

    hooks = [
        module.register_forward_hook(watch(name.split("layers.")[1]))
        for name, module in peer.named_modules()
        if name.rpartition(".")[2] in TARGETS[variant]
    ]
    peer_logits(peer, ids)
    for hook in hooks:
        hook.remove()
    for module in adapter.factors:
        for layer in range(model.config.num_layers):
            expected = np.square(seen[f"{layer}.{path_in_layer(module)}"][keep]).sum(axis=0)
            np.testing.assert_allclose(statistics.input_square[module][layer], expected, rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("length", [12, 140])
def test_gradients_are_those_of_torch(held, monkeypatch, length):
    """Short rows, and rows so long that attention goes by blocks and logits are made in parts."""
    variant, folder, peer, model, params = held
    if length > 100 and variant not in ("gemma2", "phi3", "qwen3_moe"):
        pytest.skip("three families have all that differs in long rows")
    monkeypatch.setattr("nlsr_jax.models.token_log_probabilities.WHOLE_LOGITS", 0 if length > 100 else 2**21)
    adapter = nlsr_jax.load_adapter(folder / "adapter", model.config)
    ids = tokens(3, 2, length)
    keep = np.ones(ids.shape, bool)
    keep[:, :5] = False
    ours = collect_loss_gradient(model, params, adapter, [(ids, keep)])
    found = torch.log_softmax(peer(torch.tensor(ids, dtype=torch.long)).logits[:, :-1], -1)
    chosen = found.gather(-1, torch.tensor(ids[:, 1:, None], dtype=torch.long))[..., 0]
    loss = -chosen[:, 4:].mean()
    factors = {name: weight for name, weight in peer.named_parameters() if weight.requires_grad}
    theirs = dict(zip(factors, torch.autograd.grad(loss, list(factors.values())), strict=True))
    for module, leaf in ours.items():
        for factor, values in leaf.items():
            for layer, value in enumerate(values):
                name = f"layers.{layer}.{path_in_layer(module)}.lora_{factor.upper()}.default.weight"
                (expected,) = [g.numpy() for other, g in theirs.items() if other.endswith(name)]
                np.testing.assert_allclose(value, expected, atol=2e-4 * np.abs(expected).max(), rtol=1e-3)


def test_realigned_adapters_load_in_peft(held, tmp_path):
    _, folder, _, model, params = held
    rows = save_rows(tmp_path / "rows.jsonl", 4)
    defaults = dataclasses.asdict(LIFTED_ALONE)
    settings = Settings(
        base=str(folder / "base"), finetuned=str(folder / "adapter"), calibration=str(rows), **defaults
    )
    record = realign_files(settings, tmp_path / "out", stages=Stages(False))
    assert record["summary"]["changed_entries"] > 0
    again = PeftModel.from_pretrained(make_peer(held[0]), tmp_path / "out").eval()
    adapter = nlsr_jax.load_adapter(tmp_path / "out", model.config)
    ids = tokens(2, 2, 12)
    assert (
        np.abs(np.asarray(nlsr_jax.logits(model, params, ids, adapter)) - peer_logits(again, ids)).max() < LARGEST
    )
