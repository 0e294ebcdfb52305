"""Bases of every family with adapters that PEFT made: run, measured, realigned, and loaded by PEFT again."""

import dataclasses
import json
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

import nlsr_jax
from nlsr_jax.calibration.capture import collect_statistics
from nlsr_jax.calibration.loss import collect_loss, collect_loss_gradient
from nlsr_jax.errors import InputError
from nlsr_jax.modules import path_in_layer
from nlsr_jax.nlsr.settings import RECOMMENDED_ALONE
from nlsr_jax.pipeline import Settings, Stages, realign_files
from tests.oracles import random_adapter
from tests.parity.comparison import MADE, peer_generates
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
LONG = ("gemma2", "phi3", "qwen3_moe")
"""Families that have all that differs in long rows."""


def only(*families):
    """These families alone, where the others have nothing of their own."""
    return pytest.mark.parametrize("held", families, indirect=True)


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


@only("gemma2", "phi3", "qwen3_moe")
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


@only("gemma2", "phi3", "qwen3_moe")
def test_gradients_are_those_of_torch(held, monkeypatch):
    """Short rows, or rows so long that attention goes by blocks and logits are made in parts."""
    variant, folder, peer, model, params = held
    length = 140 if variant in LONG else 12
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


@only("phi3")
def test_realigned_adapters_load_in_peft(held, tmp_path):
    _, folder, _, model, params = held
    rows = save_rows(tmp_path / "rows.jsonl", 4)
    defaults = dataclasses.asdict(RECOMMENDED_ALONE)
    settings = Settings(
        base=str(folder / "base"), finetuned=str(folder / "adapter"), calibration=str(rows), **defaults
    )
    record = realign_files(settings, tmp_path / "out", stages=Stages(False))
    assert record["summary"]["changed_entries"] > 0
    again = PeftModel.from_pretrained(make_peer(held[0]), tmp_path / "out").eval()
    adapter = nlsr_jax.load_adapter(tmp_path / "out", model.config)
    ids = tokens(2, 2, 16)
    assert (
        np.abs(np.asarray(nlsr_jax.logits(model, params, ids, adapter)) - peer_logits(again, ids)).max() < LARGEST
    )


@pytest.fixture(params=["mixtral", "qwen3_moe"])
def experts(request, tmp_path):
    """A mixture of experts with an adapter of each expert, and PEFT's model of both.

    The adapter has the names of transformers 4; PEFT puts the experts of a layer together as it loads them.
    """
    variant = request.param
    make_peer(variant).save_pretrained(tmp_path / "base")
    model, params = nlsr_jax.load_model(tmp_path / "base")
    config, names = model.config, {"mixtral": ["w1", "w2", "w3"], "qwen3_moe": SEVEN[4:]}[variant]
    sizes = {"q_proj": config.projections()["q_proj"]}
    sizes |= {name: size for name, (_, size) in config.expert_modules().items()}
    adapter = random_adapter(0, layers=config.num_layers, rank=3, sizes=sizes, scaling=2.0)
    adapter = dataclasses.replace(adapter, factors=jax.tree.map(lambda x: np.float32(0.2) * x, adapter.factors))
    nlsr_jax.save_adapter(adapter, tmp_path / "a", base_model_name_or_path=str(tmp_path / "base"))
    file = tmp_path / "a" / "adapter_config.json"
    fields = json.loads(file.read_text()) | {"target_modules": ["q_proj", *names], "task_type": "CAUSAL_LM"}
    file.write_text(json.dumps(fields))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"The following (rank|alpha)_pattern keys")
        peer = PeftModel.from_pretrained(make_peer(variant), tmp_path / "a").eval()
    return variant, model, params, nlsr_jax.load_adapter(tmp_path / "a", config), peer


def test_adapters_of_single_experts_run_as_in_peft(experts):
    variant, model, params, adapter, peer = experts
    ids = tokens(0, 2, 16)
    ours, theirs = np.asarray(nlsr_jax.logits(model, params, ids, adapter)), peer_logits(peer, ids)
    assert np.abs(theirs - peer_logits(make_peer(variant), ids)).max() > 0.1
    assert np.abs(ours - theirs).max() < LARGEST
    if variant == "qwen3_moe":
        made = nlsr_jax.generate(model, params, ids, adapter=adapter, max_new_tokens=MADE)
        np.testing.assert_array_equal(made, peer_generates(peer, ids, np.ones(ids.shape, bool)))
    with pytest.raises(InputError, match="run without factors of experts"):
        nlsr_jax.logits(model, params, ids, [adapter, adapter])


@pytest.mark.parametrize("experts", ["qwen3_moe"], indirect=True)
def test_statistics_and_gradients_of_single_experts(experts):
    _, model, params, adapter, peer = experts
    ids, chosen = tokens(0, 2, 16), model.config.experts.chosen
    batch = (ids, np.ones(ids.shape, bool))
    statistics = collect_statistics(model, params, adapter, [batch])
    seen = []
    hooks = [
        module.register_forward_hook(lambda module, inputs, _: seen.append(inputs[0].numpy()))
        for name, module in peer.named_modules()
        if name.endswith((".mlp", ".block_sparse_moe"))
    ]
    peer_logits(peer, ids)
    for hook in hooks:
        hook.remove()
    up = [m for m, ((own, _), _) in model.config.expert_modules().items() if own == "up_proj"]
    together = sum(np.asarray(statistics.input_square[module]) for module in up)
    expected = [chosen * np.square(inputs).sum(axis=(0, 1)) for inputs in seen]
    np.testing.assert_allclose(together, expected, rtol=2e-3)
    gradient = collect_loss_gradient(model, params, adapter, [batch])
    factors = jax.tree.map(lambda x, g: x - 1e-3 * g, dict(adapter.factors), gradient)
    moved = dataclasses.replace(adapter, factors=factors)
    before, after = (float(collect_loss(model, params, one, [batch])) for one in (adapter, moved))
    squared = sum(float(jnp.sum(jnp.square(g))) for g in jax.tree.leaves(gradient))
    assert abs((before - after) / (1e-3 * squared) - 1) < 0.1
