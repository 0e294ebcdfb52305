"""The PyTorch programs of the benchmarks take the same steps as the commands that they are measured against."""

import dataclasses
import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from benchmarks import torch_realign
from benchmarks.torch_realign import METHODS, Options
from nlsr_jax.configs.tiny import SHIPPED
from nlsr_jax.nlsr.settings import PUBLISHED, RECOMMENDED_ALONE
from nlsr_jax.pipeline import realign_files
from nlsr_jax.pipeline.settings import Settings

pytestmark = pytest.mark.slow
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def given(tmp_path):
    """Shipped models, and rows as users write them, without the template."""
    for name in ("calibration", "harmless"):
        rows = [json.loads(line) for line in (SHIPPED / f"{name}.jsonl").read_text().splitlines()[:24]]
        for row in rows:
            row["prompt"] = row["prompt"].removeprefix("<s><user> ").removesuffix(" <assistant>")
            row.setdefault("response", "")
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Options(
        base=str(SHIPPED / "base"),
        finetuned=str(SHIPPED / "finetuned_sst2"),
        output=str(tmp_path / "theirs"),
        pretrained=str(SHIPPED / "base"),
        weak=str(SHIPPED / "sft"),
        aligned=str(SHIPPED / "dpo"),
        calibration=str(tmp_path / "calibration.jsonl"),
        harmless=str(tmp_path / "harmless.jsonl"),
        shares=(0.01,),
        share=0.02,
    )


def realigned(given, defaults, tmp_path, *names):
    """The tensors that ours writes and those of theirs."""
    paths = {name: getattr(given, name) for name in ("base", "finetuned", "calibration", *names)}
    realign_files(Settings(**paths, **dataclasses.asdict(defaults), template="chat"), tmp_path / "ours")
    return load_file(tmp_path / "ours" / WEIGHTS), load_file(tmp_path / "theirs" / WEIGHTS)


def test_the_recommended_repair_is_the_same_one(given, tmp_path):
    METHODS["recommended"](given)
    ours, theirs = realigned(given, RECOMMENDED_ALONE, tmp_path)
    before = load_file(SHIPPED / "finetuned_sst2" / WEIGHTS)
    changed = {name: (ours[name] != before[name], theirs[name] != before[name]) for name in before}
    count = sum(int(mine.sum()) for mine, _ in changed.values())
    assert count > 1000
    assert sum(int((mine != peer).sum()) for mine, peer in changed.values()) < 0.01 * count
    for name, (mine, _) in changed.items():
        assert not ours[name][mine].any()


def test_the_published_repair_has_the_same_masks(given, tmp_path, monkeypatch):
    """Without chance: every module is repaired."""
    monkeypatch.setattr(torch_realign, "PROBABILITY", 0.0)
    monkeypatch.setattr(torch_realign, "INCREMENT", 0.0)
    METHODS["published"](given)
    ours, theirs = realigned(given, dataclasses.replace(PUBLISHED, rule="all"), tmp_path, "weak", "aligned")
    apart = [np.mean(np.abs(ours[name] - theirs[name]) > 1e-6) for name in ours]
    assert np.mean(apart) < 0.01


@pytest.mark.parametrize("method", ["safelora", "resta"])
def test_the_others_write_a_model(method, given, tmp_path):
    METHODS[method](given)
    assert any((tmp_path / "theirs").glob("*.safetensors"))
