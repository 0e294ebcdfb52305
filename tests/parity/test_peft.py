"""PEFT adapters both ways: what PEFT saves we load, what we save PEFT loads, with the same logits."""

import jax
import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

import nlsr_jax
from nlsr_jax.adapter import delta
from tests.parity.peers import make_peer, peer_logits, save_peer, tokens

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
EVERY = [*ATTENTION, "gate_proj", "up_proj", "down_proj"]
CONFIGS = {
    "plain": {"r": 4, "lora_alpha": 8, "target_modules": EVERY},
    "rslora": {"r": 4, "lora_alpha": 8, "target_modules": EVERY, "use_rslora": True},
    "one_module": {"r": 2, "lora_alpha": 3, "target_modules": ["v_proj"]},
    "all_linear": {"r": 3, "lora_alpha": 5, "target_modules": "all-linear"},
    "rank_pattern": {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": EVERY,
        "rank_pattern": {"q_proj": 2, "mlp.up_proj": 6, "self_attn.q_proj": 7},
    },
    "ranks_by_layer": {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ["q_proj", "up_proj"],
        "rank_pattern": {r"layers\.0\.self_attn\.q_proj": 2, r"layers\.1\.mlp\.up_proj": 6},
    },
    "alpha_pattern": {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": EVERY,
        "alpha_pattern": {r"layers\.1\.self_attn\.v_proj": 3, "o_proj": 1},
    },
    "rslora_patterns": {
        "r": 4,
        "lora_alpha": 8,
        "use_rslora": True,
        "target_modules": ATTENTION,
        "rank_pattern": {"q_proj": 9},
        "alpha_pattern": {"k_proj": 5.5},
    },
    "layers": {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "up_proj"], "layers_to_transform": [0, 2]},
    "layers_pattern": {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ["q_proj"],
        "layers_to_transform": [1],
        "layers_pattern": "layers",
    },
    "regex": {"r": 4, "lora_alpha": 8, "target_modules": r".*layers\.(0|2)\.(self_attn\.q_proj|mlp\.down_proj)"},
    "uneven_regex": {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": r".*(layers\.0\.self_attn\.q_proj|2\.mlp\.up_proj)",
    },
    "exclude": {"r": 4, "lora_alpha": 8, "target_modules": ATTENTION, "exclude_modules": ["k_proj"]},
}

RUN = ("rslora", "rank_pattern", "alpha_pattern", "layers", "uneven_regex")
"""Run in the model: one of each kind of scaling, rank and choice of layers. The updates of all are compared."""


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    save_peer("qwen2", folder)
    return folder


def make_adapter(config, dtype=torch.float32):
    """A PEFT model with random factors."""
    torch.manual_seed(1)
    peer = get_peft_model(make_peer("qwen2"), LoraConfig(task_type="CAUSAL_LM", **config))
    with torch.no_grad():
        for name, weight in peer.named_parameters():
            if "lora_" in name:
                weight.copy_((torch.randn_like(weight) * 0.2).to(dtype))
    return peer.eval()


def peft_deltas(peer):
    """``{(layer, module): update}`` as PEFT computes it."""
    found = {}
    for name, layer in peer.named_modules():
        if hasattr(layer, "get_delta_weight"):
            parts = name.split(".")
            found[int(parts[parts.index("layers") + 1]), parts[-1]] = (
                layer.get_delta_weight("default").detach().numpy()
            )
    return found


def our_deltas(adapter):
    found = {}
    for module, value in delta(adapter).items():
        for i, layer in enumerate(nlsr_jax.adapter.layer_indices(adapter, module)):
            found[layer, module] = np.asarray(value[i])
    return found


def assert_same_deltas(ours, theirs):
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        # One product of rank at most 9 in float32.
        np.testing.assert_allclose(ours[key], value, atol=1e-6)


@pytest.mark.parametrize("name", CONFIGS)
def test_both_ways(base, tmp_path, name):
    peer = make_adapter(CONFIGS[name])
    peer.save_pretrained(tmp_path / "theirs")
    adapter = nlsr_jax.load_adapter(tmp_path / "theirs")
    assert_same_deltas(our_deltas(adapter), peft_deltas(peer))

    ids = tokens(0, 2, 12)
    theirs = peer_logits(peer, ids)
    if name in RUN:
        ours = np.asarray(nlsr_jax.logits(*nlsr_jax.load_model(base), ids, adapter))
        assert np.abs(ours - theirs).max() < 1e-4

    for part, layout in (("kept", nlsr_jax.formats.peft.read_layout(tmp_path / "theirs")), ("new", None)):
        nlsr_jax.save_adapter(adapter, tmp_path / part, base_model_name_or_path=str(base), layout=layout)
        again = PeftModel.from_pretrained(make_peer("qwen2"), tmp_path / part).eval()
        assert_same_deltas(peft_deltas(again), peft_deltas(peer))
        assert np.abs(peer_logits(again, ids) - theirs).max() < 1e-4
        reloaded = nlsr_jax.load_adapter(tmp_path / part)
        jax.tree.map(np.testing.assert_array_equal, reloaded.factors, adapter.factors)
        assert_same_deltas(our_deltas(reloaded), our_deltas(adapter))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_kept_to_the_bit(tmp_path, dtype):
    peer = make_adapter(CONFIGS["plain"])
    peer = peer.to(getattr(torch, dtype))
    peer.save_pretrained(tmp_path / "theirs")
    adapter = nlsr_jax.load_adapter(tmp_path / "theirs")
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(adapter)} == {dtype}
    nlsr_jax.save_adapter(adapter, tmp_path / "ours")
    from safetensors.torch import load_file

    first, second = (load_file(tmp_path / d / "adapter_model.safetensors") for d in ("theirs", "ours"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_widened_adapter_keeps_its_scaling_in_peft(tmp_path):
    peer = make_adapter(CONFIGS["rslora_patterns"])
    peer.save_pretrained(tmp_path / "theirs")
    adapter = nlsr_jax.load_adapter(tmp_path / "theirs")
    wide = nlsr_jax.concatenate(adapter, adapter, (0.5, 0.5))
    layout = nlsr_jax.formats.peft.read_layout(tmp_path / "theirs")
    nlsr_jax.save_adapter(wide, tmp_path / "wide", layout=layout)
    again = PeftModel.from_pretrained(make_peer("qwen2"), tmp_path / "wide")
    assert_same_deltas(peft_deltas(again), peft_deltas(peer))


def test_real_checkpoints_come_back_bit_for_bit(shared_data, tmp_path):
    from safetensors.numpy import load_file

    for step in ("checkpoint-1000", "checkpoint-1064"):
        source = shared_data / "adapters" / "llama32-1b-r8" / step
        adapter = nlsr_jax.load_adapter(source)
        assert adapter.scaling == 2.0
        assert {m: f["a"].shape for m, f in adapter.factors.items()} == dict.fromkeys(
            ("q_proj", "v_proj"), (16, 8, 2048)
        )
        nlsr_jax.save_adapter(adapter, tmp_path / step)
        first, second = (
            load_file(source / "adapter_model.safetensors"),
            load_file(tmp_path / step / "adapter_model.safetensors"),
        )
        assert first.keys() == second.keys()
        for name, value in first.items():
            np.testing.assert_array_equal(second[name].view(np.uint32), value.view(np.uint32))
