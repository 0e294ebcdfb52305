"""The gradient of the loss by the model's own matrices, against PyTorch."""

import re

import numpy as np
import pytest

import nlsr_jax
from nlsr_jax.calibration import collect_weight_gradient
from nlsr_jax.errors import InputError
from nlsr_jax.modules import path_in_layer
from tests.parity.peers import save_peer
from tests.tiny_base import save_base


def make_batches(count=2, rows=3, length=9, vocabulary=30):
    draw = np.random.default_rng(0)
    found = []
    for _ in range(count):
        tokens = draw.integers(3, vocabulary, (rows, length)).astype(np.int32)
        mask = np.arange(length) >= draw.integers(2, length - 2, (rows, 1))
        found.append((tokens, mask))
    found[-1][1][-1] = False  # a row without a response, which does not count
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_base(tmp_path_factory.mktemp("gradient") / "base")


def gradient_of(peer, module, layer):
    """PyTorch's gradient of a projection; experts of one layer are in one tensor there, gate and up as well."""
    expert = re.fullmatch(r"(?:block_sparse_moe|mlp)\.experts\.(\d+)\.(\w+)", module)
    if expert is None:
        return peer.get_submodule(f"model.layers.{layer}.{path_in_layer(module)}").weight.grad.numpy()
    experts = peer.get_submodule(f"model.layers.{layer}.mlp.experts")
    number, name = int(expert[1]), expert[2]
    if name in ("w2", "down_proj"):
        return experts.down_proj.grad[number].numpy()
    gate, up = experts.gate_up_proj.grad[number].chunk(2)
    return (gate if name in ("w1", "gate_proj") else up).numpy()


@pytest.mark.parametrize("family", ["phi3", "mixtral"])
def test_gradient_is_that_of_pytorch(family, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM

    save_peer(family, tmp_path)
    model, params = nlsr_jax.load_model(tmp_path)
    batches = make_batches()
    found = collect_weight_gradient(model, params, batches)
    peer, losses = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager"), []
    for tokens, mask in batches:
        ids = torch.tensor(tokens, dtype=torch.int64)
        chosen = torch.log_softmax(peer(ids).logits[:, :-1], -1).gather(-1, ids[:, 1:, None])[..., 0]
        keep = torch.tensor(mask[:, 1:])
        losses += [-row[kept].mean() for row, kept in zip(chosen, keep, strict=True) if kept.any()]
    torch.stack(losses).mean().backward()
    assert set(found) == set(model.config.modules())
    for module, leaf in found.items():
        for layer, ours in enumerate(leaf):
            theirs = gradient_of(peer, module, layer)
            np.testing.assert_allclose(ours, theirs, atol=1e-5 * np.abs(theirs).max())  # float32, other order


def test_other_batches_are_refused(folder):
    model, params = nlsr_jax.load_model(folder)
    (tokens, mask), *_ = make_batches()
    with pytest.raises(InputError, match="batches of 2 arrays, found 3"):
        collect_weight_gradient(model, params, [(tokens, mask, mask)])
