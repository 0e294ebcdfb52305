"""The PyTorch programs of the benchmarks take the same steps as the commands that they are measured against."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from benchmarks import torch_realign
from benchmarks.fleet_world import save_instruct
from benchmarks.published import ITERATIONS
from benchmarks.torch_realign import METHODS, Options
from nlsr_jax.configs.tiny import SHIPPED
from nlsr_jax.defenses.safelora import safelora
from nlsr_jax.formats.peft import load_adapter
from nlsr_jax.models import load_model
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
    asked = Settings(**paths, **dataclasses.asdict(defaults), template="chat", strength=given.strength)
    realign_files(asked, tmp_path / "ours")
    return load_file(tmp_path / "ours" / WEIGHTS), load_file(tmp_path / "theirs" / WEIGHTS)


@pytest.mark.parametrize("strength", [1.0, 2.0])
def test_the_recommended_repair_is_the_same_one(given, tmp_path, strength):
    given = given._replace(strength=strength)
    METHODS["recommended"](given)
    ours, theirs = realigned(given, RECOMMENDED_ALONE, tmp_path)
    before = load_file(SHIPPED / "finetuned_sst2" / WEIGHTS)
    changed = {name: (ours[name] != before[name], theirs[name] != before[name]) for name in before}
    count = sum(int(mine.sum()) for mine, _ in changed.values())
    assert count > 1000
    assert sum(int((mine != peer).sum()) for mine, peer in changed.values()) < 0.01 * count
    for name, (mine, _) in changed.items():
        assert np.array_equal(ours[name][mine], (1 - strength) * before[name][mine])


def exact_svd(matrix, q, niter):
    """Return what ``torch.svd_lowrank`` approximates by a random start."""
    assert niter == ITERATIONS
    u, values, vt = torch.linalg.svd(matrix, full_matrices=False)
    return u[:, :q], values[:q], vt[:q].T


def test_the_published_repair_has_the_same_masks(given, tmp_path, monkeypatch):
    """Without chance: every module is repaired, and singular vectors are exact."""
    monkeypatch.setattr(torch, "svd_lowrank", exact_svd)
    monkeypatch.setattr(torch_realign, "PROBABILITY", 0.0)
    monkeypatch.setattr(torch_realign, "INCREMENT", 0.0)
    METHODS["published"](given)
    ours, theirs = realigned(given, dataclasses.replace(PUBLISHED, rule="all"), tmp_path, "weak", "aligned")
    apart = [np.mean(np.abs(ours[name] - theirs[name]) > 1e-6) for name in ours]
    assert max(apart) < 0.01


@pytest.fixture
def instruct(given, tmp_path):
    """The same with the aligned adapter merged into the base, so that there is a safety vector."""
    return given._replace(base=str(save_instruct(tmp_path / "instruct", load_adapter(SHIPPED / "dpo"))))


def test_safelora_projects_the_modules_that_ours_projects(instruct):
    METHODS["safelora"](instruct)
    before, after = (load_adapter(place) for place in (instruct.finetuned, instruct.output))
    ours = safelora(before, load_adapter(SHIPPED / "dpo"))
    assert any(np.any(changed) for changed in ours.changed.values())
    for module, factors in ours.adapter.factors.items():
        # The vector is a difference of float32 weights here, and a product of factors there.
        np.testing.assert_allclose(after.factors[module]["b"], factors["b"], atol=1e-4)


def test_resta_adds_the_difference_of_aligned_and_unaligned_weights(instruct, tmp_path):
    METHODS["resta"](instruct)
    METHODS["resta"](instruct._replace(pretrained=instruct.base, output=str(tmp_path / "nothing added")))
    names = (instruct.output, tmp_path / "nothing added", instruct.base, instruct.pretrained)
    found, plain, aligned, unaligned = (load_model(name)[1] for name in names)
    vector = jax.tree.map(lambda one, other: one - other, aligned, unaligned)
    assert any(np.any(leaf) for leaf in jax.tree.leaves(vector))
    added = jax.tree.map(lambda one, other: one - other, found, plain)
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, atol=1e-6), added, vector)
