"""The gradient of the loss by the model's own matrices, against PyTorch."""

import numpy as np
import pytest

import nlsr_jax
from nlsr_jax.calibration import collect_weight_gradient
from nlsr_jax.errors import InputError
from nlsr_jax.modules import MODULES, path_in_layer
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


def test_gradient_is_that_of_pytorch(folder):
    import torch
    from transformers import LlamaForCausalLM

    model, params = nlsr_jax.load_model(folder)
    batches = make_batches()
    found = collect_weight_gradient(model, params, batches)
    peer, losses = LlamaForCausalLM.from_pretrained(folder), []
    for tokens, mask in batches:
        ids = torch.tensor(tokens, dtype=torch.int64)
        chosen = torch.log_softmax(peer(ids).logits[:, :-1], -1).gather(-1, ids[:, 1:, None])[..., 0]
        keep = torch.tensor(mask[:, 1:])
        losses += [-row[kept].mean() for row, kept in zip(chosen, keep, strict=True) if kept.any()]
    torch.stack(losses).mean().backward()
    assert set(found) == set(MODULES)
    for module, leaf in found.items():
        for layer, ours in enumerate(leaf):
            theirs = peer.get_submodule(f"model.layers.{layer}.{path_in_layer(module)}").weight.grad.numpy()
            np.testing.assert_allclose(ours, theirs, atol=1e-5 * np.abs(theirs).max())  # float32, other order


def test_other_batches_are_refused(folder):
    model, params = nlsr_jax.load_model(folder)
    (tokens, mask), *_ = make_batches()
    with pytest.raises(InputError, match="batches of 2 arrays, found 3"):
        collect_weight_gradient(model, params, [(tokens, mask, mask)])
