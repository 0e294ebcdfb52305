"""Adapters that plain factors cannot hold: refused with advice that works. PEFT merges, the model is repaired."""

import dataclasses

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.config import BdLoraConfig

import nlsr_jax
from nlsr_jax.errors import InputError
from nlsr_jax.files.safetensors_files import open_checked
from nlsr_jax.nlsr.settings import RECOMMENDED_ALONE
from nlsr_jax.pipeline import Settings, Stages, realign_files
from tests.parity.peers import make_peer, peer_logits, tokens
from tests.tiny_base import save_rows, save_tokenizer

KINDS = {
    "dora": {"use_dora": True},
    "pissa": {"init_lora_weights": "pissa"},
    "bdlora": {
        "use_bdlora": BdLoraConfig(target_modules_bd_a=["o_proj"], target_modules_bd_b=["q_proj"], nblocks=2)
    },
}


def save_merged(kind, folder):
    """Save a base, an adapter of a kind, and PEFT's merge of both; return PEFT's logits of the adapter."""
    make_peer("llama2").save_pretrained(folder / "base")
    torch.manual_seed(1)
    config = LoraConfig(
        r=4, lora_alpha=8, target_modules=["q_proj", "o_proj"], task_type="CAUSAL_LM", **KINDS[kind]
    )
    peer = get_peft_model(make_peer("llama2"), config).eval()
    with torch.no_grad():
        for name, weight in peer.named_parameters():
            if "lora_" in name:
                weight.mul_(1 + 0.2 * torch.randn_like(weight)).add_(0.05 * torch.randn_like(weight))
    peer.save_pretrained(folder / "adapter")
    logits = peer_logits(peer, tokens(0, 2, 12))
    peer.merge_and_unload().save_pretrained(folder / "merged")
    save_tokenizer(folder / "base")
    return logits


@pytest.mark.parametrize("kind", KINDS)
def test_the_merged_model_is_the_adapter(tmp_path, kind):
    theirs = save_merged(kind, tmp_path)
    with pytest.raises(InputError) as refused:
        nlsr_jax.load_adapter(tmp_path / "adapter")
    assert "give its folder as --finetuned, beside --base" in refused.value.with_flags()
    model, params = nlsr_jax.load_model(tmp_path / "merged")
    np.testing.assert_allclose(nlsr_jax.logits(model, params, tokens(0, 2, 12)), theirs, atol=1e-4)


def test_the_merged_model_is_repaired(tmp_path):
    save_merged("dora", tmp_path)
    rows = save_rows(tmp_path / "rows.jsonl", 4)
    given = {**dataclasses.asdict(RECOMMENDED_ALONE), "sparsity": 0.9, "calibration": str(rows)}
    settings = Settings(base=str(tmp_path / "base"), finetuned=str(tmp_path / "merged"), **given)
    record = realign_files(settings, tmp_path / "out", stages=Stages(False))
    assert record["summary"]["changed_entries"] > 0
    base, merged, found = (
        open_checked(tmp_path / name / "model.safetensors") for name in ("base", "merged", "out")
    )
    changed = 0
    for name in found.names():
        before, tuned, after = (file.read(name) for file in (base, merged, found))
        assert np.all((after == tuned) | (after == before))
        changed += np.count_nonzero(after != tuned)
    assert changed == record["summary"]["changed_entries"]
