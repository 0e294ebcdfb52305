"""Adapters of more than the decoder's projections: read, applied and written again as PEFT does."""

import warnings

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from peft.utils.save_and_load import load_peft_weights
from safetensors.numpy import load_file

import nlsr_jax
from nlsr_jax.formats.peft import AdapterWriter, open_adapter, read_layout
from tests.parity.peers import make_peer, peer_logits, save_peer, tokens

PAIR = ["q_proj", "v_proj"]
KINDS = {
    "head factors": {"target_modules": [*PAIR, "lm_head"]},
    "embedding factors": {"target_modules": [*PAIR, "embed_tokens"]},
    "factors of both": {
        "target_modules": [*PAIR, "embed_tokens", "lm_head"],
        "rank_pattern": {"lm_head": 2, "embed_tokens": 3},
        "alpha_pattern": {"lm_head": 5},
        "use_rslora": True,
    },
    "tied factors": {"target_modules": [*PAIR, "embed_tokens"], "ensure_weight_tying": True},
    "whole both": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "whole embedding": {"modules_to_save": ["embed_tokens"]},
    "whole head": {"modules_to_save": ["lm_head"]},
    "whole and tied": {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    "whole embedding, head factors": {"modules_to_save": ["embed_tokens"], "target_modules": [*PAIR, "lm_head"]},
    "norms": {"modules_to_save": ["norm"]},
    "whole projection": {"modules_to_save": ["o_proj"]},
    "rows": {"trainable_token_indices": [3, 5, 7]},
    "rows by name": {"trainable_token_indices": {"embed_tokens": [3, 5, 7]}},
    "other rows of the head": {"trainable_token_indices": {"embed_tokens": [3, 5, 7], "lm_head": [3, 9]}},
    "rows of the head": {"trainable_token_indices": {"lm_head": [3, 9]}},
    "rows and head factors": {"trainable_token_indices": [3, 9], "target_modules": [*PAIR, "lm_head"]},
    "rows of a head that is tied": {
        "trainable_token_indices": {"embed_tokens": [3, 9], "lm_head": [3, 9]},
        "ensure_weight_tying": True,
    },
}
APART = ("head factors", "whole head", "norms", "whole projection", "rows by name", "rows of the head")
"""Kinds to which tied ends make no difference, or the difference that they make to another kind."""
RESIZED = (
    "whole both", "whole embedding", "whole head", "rows", "plain",
)  # fmt: skip


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """Opens a base by its variant."""
    opened = {}

    def get(variant):
        if variant not in opened:
            folder = tmp_path_factory.mktemp(variant)
            save_peer(variant, folder)
            opened[variant] = (folder, *nlsr_jax.load_model(folder))
        return opened[variant]

    return get


@pytest.fixture(autouse=True)
def _quiet():
    """PEFT warns of tied ends, of resized embeddings and of what it saves; missing keys stay errors."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"(?s).*(tie|save_embedding_layers|Unsure|config file)")
        yield


def save_adapter_of(folder, variant, rows=None, base=None, **config):
    """Save a PEFT adapter whose tensors all differ from the base's; returns the model."""
    torch.manual_seed(1)
    peer = resized(make_peer(variant), rows)
    if base is not None:
        peer.config._name_or_path = peer.name_or_path = str(base)
    peer = get_peft_model(peer, LoraConfig(**{"task_type": "CAUSAL_LM", "target_modules": PAIR, "r": 4, **config}))
    with torch.no_grad():
        for weight in peer.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight) * 0.2)
    peer.save_pretrained(folder)
    return peer.eval()


def resized(peer, rows):
    if rows is not None:
        peer.resize_token_embeddings(rows, mean_resizing=False)
    return peer


def our_logits(model, params, folder, ids):
    model, params = nlsr_jax.apply_carried(model, params, nlsr_jax.load_carried(folder))
    return np.asarray(nlsr_jax.logits(model, params, ids, nlsr_jax.load_adapter(folder)))


def assert_peft_loads(folder, peer):
    """PEFT misses no key and finds none that it does not expect."""
    result = set_peft_model_state_dict(peer, load_peft_weights(str(folder), device="cpu"))
    assert not result.unexpected_keys
    parts = ("lora_", "modules_to_save", "trainable_tokens_delta")
    missing = [name for name in result.missing_keys if any(part in name for part in parts)]
    # The rows of a tied head are those of the embedding: PEFT saves them once.
    assert set(missing) <= {"base_model.model.lm_head.token_adapter.trainable_tokens_delta.default"} | {
        "base_model.model.lm_head.base_layer.token_adapter.trainable_tokens_delta.default"
    }


def assert_same_file(first, second):
    name = "adapter_model.safetensors"
    one, two = (load_file(folder / name) for folder in (first, second))
    assert one.keys() == two.keys()
    for key, value in one.items():
        assert value.dtype == two[key].dtype, key
        np.testing.assert_array_equal(value.view(np.uint8), two[key].view(np.uint8), err_msg=key)


@pytest.mark.parametrize(
    ("variant", "kind"),
    [*(("llama2", kind) for kind in KINDS), *(("llama32_tied", kind) for kind in KINDS if kind not in APART)],
)
def test_every_kind(bases, tmp_path, variant, kind):
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    peer = save_adapter_of(theirs, variant, **KINDS[kind])
    _, model, params = bases(variant)
    nlsr_jax.save_adapter(nlsr_jax.load_adapter(theirs), ours, layout=read_layout(theirs))
    assert_same_file(theirs, ours)
    again = PeftModel.from_pretrained(make_peer(variant), ours).eval()
    assert_peft_loads(ours, again)

    ids = tokens(0, 2, 12)
    ids[0, :3] = [3, 5, 9]
    expected = peer_logits(peer, ids)
    assert np.abs(peer_logits(again, ids) - expected).max() < 1e-5
    assert np.abs(our_logits(model, params, ours, ids) - expected).max() < 1e-4
    factors = np.asarray(nlsr_jax.logits(model, params, ids, nlsr_jax.load_adapter(ours)))
    assert np.abs(factors - expected).max() > 0.05, "the carried tensors change nothing here"


@pytest.mark.parametrize("bias", ["all", "lora_only"])
@pytest.mark.parametrize("variant", ["llama_biases", "qwen2"])
def test_biases(bases, tmp_path, variant, bias):
    peer = save_adapter_of(tmp_path / "theirs", variant, bias=bias)
    _, model, params = bases(variant)
    ids = tokens(0, 2, 12)
    expected = peer_logits(peer, ids)
    assert np.abs(our_logits(model, params, tmp_path / "theirs", ids) - expected).max() < 1e-4
    adapter = nlsr_jax.load_adapter(tmp_path / "theirs")
    nlsr_jax.save_adapter(adapter, tmp_path / "ours", layout=read_layout(tmp_path / "theirs"))
    assert_same_file(tmp_path / "theirs", tmp_path / "ours")


@pytest.mark.parametrize("variant", ["llama2", "llama32_tied"])
@pytest.mark.parametrize(("kind", "rows"), [*((kind, 101) for kind in RESIZED), ("plain", 90), ("rows", 90)])
def test_a_resized_vocabulary_brings_its_rows(bases, tmp_path, variant, kind, rows):
    folder, model, params = bases(variant)
    peer = save_adapter_of(tmp_path / "theirs", variant, rows, folder, **KINDS.get(kind, {}))
    ids = tokens(0, 2, 12) % rows
    ids[0, :4] = [3, 5, 9, rows - 1]
    found = our_logits(model, params, tmp_path / "theirs", ids)
    assert found.shape[-1] == rows
    assert np.abs(found - peer_logits(peer, ids)).max() < 1e-4
    adapter = nlsr_jax.load_adapter(tmp_path / "theirs")
    nlsr_jax.save_adapter(adapter, tmp_path / "ours", layout=read_layout(tmp_path / "theirs"))
    assert_same_file(tmp_path / "theirs", tmp_path / "ours")
    again = PeftModel.from_pretrained(resized(make_peer(variant), rows), tmp_path / "ours").eval()
    assert np.abs(peer_logits(again, ids) - peer_logits(peer, ids)).max() < 1e-4


@pytest.mark.parametrize("kind", ["factors of both", "whole both", "rows and head factors"])
def test_an_adapter_of_twice_the_rank_keeps_what_is_carried(bases, tmp_path, kind):
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    peer = save_adapter_of(theirs, "llama2", **KINDS[kind])
    adapter = nlsr_jax.load_adapter(theirs)
    nlsr_jax.save_adapter(nlsr_jax.concatenate(adapter, adapter, (0.5, 0.5)), ours, layout=read_layout(theirs))
    again = PeftModel.from_pretrained(make_peer("llama2"), ours).eval()
    assert_peft_loads(ours, again)
    ids = tokens(0, 2, 12)
    assert np.abs(peer_logits(again, ids) - peer_logits(peer, ids)).max() < 1e-4
    _, model, params = bases("llama2")
    assert np.abs(our_logits(model, params, ours, ids) - peer_logits(peer, ids)).max() < 1e-4
    first, second = (load_file(folder / "adapter_model.safetensors") for folder in (theirs, ours))
    for name in open_adapter(theirs).carried.tensors:
        np.testing.assert_array_equal(first[name].view(np.uint8), second[name].view(np.uint8))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_carried_to_the_bit(tmp_path, dtype):
    peer = save_adapter_of(tmp_path / "float32", "llama2", **KINDS["whole embedding, head factors"])
    peer.to(getattr(torch, dtype)).save_pretrained(tmp_path / "theirs")
    file = open_adapter(tmp_path / "theirs")
    assert {file.carried.dtype(tensor).name for tensor in file.carried.tensors.values()} == {dtype}
    with_layout = {"layout": file.layout}
    nlsr_jax.save_adapter(file.load(), tmp_path / "ours", **with_layout)
    first, second = ((tmp_path / d / "adapter_model.safetensors").read_bytes() for d in ("theirs", "ours"))
    assert first[:8] == second[:8]
    assert first == second


def test_what_is_carried_is_written_in_the_order_of_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr("nlsr_jax.files.safetensors_files._BLOCK", 100)
    save_adapter_of(tmp_path / "theirs", "llama2", **KINDS["factors of both"])
    file = open_adapter(tmp_path / "theirs")
    (tmp_path / "ours").mkdir()
    with AdapterWriter(file.shapes(), tmp_path / "ours", layout=file.layout) as writer:
        for module, row in writer.order():
            writer.write(module, file.factors(module, slice(row, row + 1)), slice(row, row + 1))
    assert writer._file._file._in_order, "a file out of order is read again for its digest"
    assert_same_file(tmp_path / "theirs", tmp_path / "ours")
