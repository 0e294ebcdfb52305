"""A quantised base serves a run as the full-precision model with the same numbers does."""

import json
import shutil

import jax
import numpy as np
import pytest

import nlsr_jax
from nlsr_jax.adapter import delta
from nlsr_jax.files.digests import sha256
from nlsr_jax.formats.peft import save_adapter
from nlsr_jax.models.load import save_model
from nlsr_jax.pipeline import Settings, realign_files
from nlsr_jax.pipeline.verification import verify
from tests.e2e.command import python
from tests.oracles import random_adapter
from tests.quantised_models import save_bitsandbytes, save_fp8, save_wide
from tests.tiny_base import save_rows

pytestmark = pytest.mark.filterwarnings("ignore")  # of the peers, about devices that are not there
SIZES = {"q_proj": (64, 64), "down_proj": (128, 64)}
KINDS = ("nf4", "int8", "fp8")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A base, its quantised copies, of each the full-precision model with the same numbers, and an adapter."""
    folder = tmp_path_factory.mktemp("quantised")
    base = save_wide(folder / "base")
    save_bitsandbytes(
        base, folder / "nf4", load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True
    )
    save_bitsandbytes(base, folder / "int8", load_in_8bit=True)
    save_fp8(base, folder / "fp8", (32, 32))
    for kind in KINDS:
        save_model(*nlsr_jax.load_model(folder / kind), folder / f"{kind}-plain")
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(base / name, folder / f"{kind}-plain" / name)
    adapter = jax.tree.map(lambda x: np.float32(0.1) * x, random_adapter(2, layers=2, rank=3, sizes=SIZES))
    save_adapter(adapter, folder / "fresh")
    save_rows(folder / "rows.jsonl")
    return folder


def repair(files, base, output, **changes):
    values = {"method": "gain", "beta": 0.0, "sparsity": 0.9, "rule": "all", **changes}
    paths = {"base": files / base, "finetuned": files / "fresh", "calibration": files / "rows.jsonl"}
    return realign_files(Settings(**{name: str(path) for name, path in paths.items()}, **values), output)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_bytes_as_on_the_numbers_in_full_precision(files, tmp_path, kind):
    record = repair(files, kind, tmp_path / "out")
    plain = repair(files, f"{kind}-plain", tmp_path / "plain")
    for name in ("adapter_model.safetensors", "masks.safetensors"):
        assert record["outputs"][name] == plain["outputs"][name]
    digests = record["inputs"]["base"]["files"]
    assert digests["model.safetensors"] == sha256(files / kind / "model.safetensors")
    assert "config.json" in digests
    assert verify(tmp_path / "out").changed == ()


def test_a_direction_between_a_quantised_base_and_a_pretrained_model(files, tmp_path):
    """What quantisation has rounded away is part of the difference, and of no low rank."""
    found = nlsr_jax.safety_direction(files / "nf4", files / "base", rank=8, modules=["q_proj"])
    plain = nlsr_jax.safety_direction(files / "nf4-plain", files / "base", rank=8, modules=["q_proj"])
    np.testing.assert_array_equal(found.adapter.factors["q_proj"]["b"], plain.adapter.factors["q_proj"]["b"])
    whole = nlsr_jax.safety_direction(files / "nf4", files / "base", rank=64, modules=["q_proj"])
    _, quantised = nlsr_jax.load_model(files / "nf4")
    _, base = nlsr_jax.load_model(files / "base")
    difference = quantised["layers"]["q_proj"]["kernel"] - base["layers"]["q_proj"]["kernel"]
    np.testing.assert_allclose(delta(whole.adapter)["q_proj"], difference, atol=1e-6)
    record = repair(files, "nf4", tmp_path / "out", pretrained=str(files / "base"), beta=1.0, sparsity=0.99)
    assert record["inputs"]["pretrained"]["files"]["model.safetensors"] == sha256(files / "base/model.safetensors")


def test_the_command(files, tmp_path):
    arguments = ["--base", files / "nf4", "--finetuned", files / "fresh", "--calibration", files / "rows.jsonl"]
    python("-m", "nlsr_jax", "realign", *arguments, "--output", tmp_path / "out")
    record = json.loads((tmp_path / "out" / "realignment.json").read_text())
    assert record["summary"]["changed_entries"] > 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_quantised_base_streams_to_the_same_bytes(files, tmp_path, kind):
    for name, stream in (("memory", False), ("streamed", True)):
        repair(files, kind, tmp_path / name, stream=stream)
    for name in ("adapter_model.safetensors", "masks.safetensors", "report.html"):
        assert (tmp_path / "streamed" / name).read_bytes() == (tmp_path / "memory" / name).read_bytes()
