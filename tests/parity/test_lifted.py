"""Adapters that were lifted: PEFT loads what is written, with ranks that differ, and gives our logits."""

import json

import jax
import numpy as np
from peft import PeftModel

import nlsr_jax
from nlsr_jax.formats.peft import save_adapter
from nlsr_jax.pipeline import Settings, realign_files
from tests.oracles import random_adapter
from tests.parity.peers import make_peer, peer_logits, save_peer, tokens

SIZES = {"q_proj": (32, 32), "v_proj": (32, 16), "up_proj": (32, 56)}


def save(folder, seed, rank, scaling):
    adapter = random_adapter(seed, layers=3, rank=rank, sizes=SIZES, scaling=scaling)
    save_adapter(jax.tree.map(lambda x: np.float32(0.1) * x, adapter), folder)
    return str(folder)


def test_peft_gives_the_same_logits(tmp_path):
    save_peer("qwen2", tmp_path / "base")
    given = {
        "aligned": save(tmp_path / "aligned", 1, 12, 0.5),
        "finetuned": save(tmp_path / "finetuned", 2, 8, 2.0),
        "weak": save(tmp_path / "weak", 3, 4, 1.0),
    }
    fixed = {"method": "random", "granularity": "adapter", "rule": "all", "sparsity": 0.99, "beta": 1.0}
    realign_files(Settings(**{**given, **fixed, "basis": "turned"}), tmp_path / "out")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["rank_pattern"]
    model, params = nlsr_jax.load_model(tmp_path / "base")
    ids = tokens(0, 2, 12)
    ours = nlsr_jax.logits(model, params, ids, adapter=nlsr_jax.load_adapter(tmp_path / "out", model.config))
    theirs = peer_logits(PeftModel.from_pretrained(make_peer("qwen2"), tmp_path / "out").eval(), ids)
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    plain = nlsr_jax.logits(model, params, ids)
    assert np.abs(ours - plain).max() > 0.1
