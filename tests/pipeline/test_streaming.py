"""Runs whose base is read layer by layer write the bytes of runs whose base is in memory."""

import dataclasses
import json

import jax
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import AbstractMesh

import nlsr_jax
from nlsr_jax.calibration import activations
from nlsr_jax.errors import InputError
from nlsr_jax.formats.peft import save_adapter
from nlsr_jax.nlsr.settings import PUBLISHED, RECOMMENDED, RECOMMENDED_ALONE
from nlsr_jax.parallel import AXES
from nlsr_jax.pipeline import Settings, identify_files, realign_files
from nlsr_jax.pipeline.settings import from_record
from tests.oracles import random_adapter
from tests.pipeline.test_weights import moved
from tests.tiny_base import save_base, save_rows

SIZES = {"q_proj": (32, 32), "v_proj": (32, 16), "down_proj": (48, 32)}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Models before and after alignment, a fully fine-tuned one, adapters, and calibration rows."""
    folder = tmp_path_factory.mktemp("streaming")
    save_base(folder / "pretrained")
    moved(folder / "pretrained", folder / "base", 1, 0.1)
    moved(folder / "base", folder / "full", 2, 0.05)
    moved(folder / "base", folder / "sharded", 3, 0.05, dtype=ml_dtypes.bfloat16, shards=3, only="")
    for name, seed in (("aligned", 1), ("tuned", 2)):
        adapter = random_adapter(seed, layers=2, rank=3, sizes=SIZES, scaling=2.0)
        save_adapter(jax.tree.map(lambda x: np.float32(0.1) * x, adapter), folder / name)
    save_rows(folder / "rows.jsonl")
    return folder


def settings(files, defaults, **changes):
    paths = {"base": "base", "finetuned": "tuned", "calibration": "rows.jsonl"}
    paths |= {name: changes.pop(name) for name in ("finetuned", "pretrained", "aligned", "base") if name in changes}
    given = {name: str(files / path) for name, path in paths.items()}
    return Settings(**{**given, **dataclasses.asdict(defaults), "batch_size": 5, **changes})


def content(folder):
    """Every file of an output but its record and Orbax's own, which hold the time."""
    found = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    return {name: data for name, data in found.items() if name not in ("realignment.json", "identification.json")}


def record(folder, name="realignment.json"):
    """The record without what tells one run from another; its outputs' digests without Orbax's."""
    found = json.loads((folder / name).read_text())
    found["outputs"] = {n: digest for n, digest in found["outputs"].items() if "/" not in n}
    streamed = found["settings"].pop("stream")
    return streamed, {n: value for n, value in found.items() if n not in ("seconds", "seal")}


RUNS = {
    "fresh": (RECOMMENDED_ALONE, {}),
    "lifted": (RECOMMENDED, {"pretrained": "pretrained", "answers": "own"}),
    "preference": (PUBLISHED, {"aligned": "aligned", "allow_unrelated": True, "method": "preference_snip"}),
    "shards": (RECOMMENDED_ALONE, {"finetuned": "sharded", "dtype": "bfloat16"}),
    "low_rank": (
        dataclasses.replace(RECOMMENDED, basis="as_is", method="low_rank"),
        {"finetuned": "full", "pretrained": "pretrained"},
    ),
}


@pytest.mark.parametrize("name", RUNS)
def test_the_output_has_the_bytes_of_a_run_in_memory(files, tmp_path, name, monkeypatch):
    defaults, changes = RUNS[name]
    realign_files(settings(files, defaults, **changes), tmp_path / "memory")
    monkeypatch.setattr(activations, "SHARE", 10**18)  # all of them go to the file
    realign_files(settings(files, defaults, **changes, stream=True), tmp_path / "streamed")
    assert content(tmp_path / "streamed") == content(tmp_path / "memory")
    (first, one), (second, other) = record(tmp_path / "streamed"), record(tmp_path / "memory")
    assert (first, second) == (True, False)
    assert one == other
    assert sorted(path.name for path in tmp_path.iterdir()) == ["memory", "streamed"]


@pytest.mark.long
def test_the_automatic_choice_streams_too(files, tmp_path):
    asked = settings(files, PUBLISHED, aligned="aligned", allow_unrelated=True)
    for name, stream in (("memory", False), ("streamed", True)):
        changed = dataclasses.replace(asked, stream=stream)
        realign_files(changed, tmp_path / name, automatic={"aim": 0.5, "share": 0.01})
    assert content(tmp_path / "streamed") == content(tmp_path / "memory")


def test_identification_streams_too(files, tmp_path):
    for name, stream in (("memory", False), ("streamed", True)):
        asked = settings(files, PUBLISHED, aligned="aligned", stream=stream)
        identify_files(dataclasses.replace(asked, finetuned=None), tmp_path / name)
    assert content(tmp_path / "streamed") == content(tmp_path / "memory")
    assert record(tmp_path / "streamed", "identification.json")[0]


def test_a_record_of_a_streamed_run_is_repeated_in_memory(files, tmp_path):
    found = realign_files(settings(files, RECOMMENDED_ALONE, stream=True), tmp_path / "out")
    again = dataclasses.replace(from_record(found["settings"], "record"), stream=False)
    realign_files(again, tmp_path / "again", recorded=found["inputs"])
    assert content(tmp_path / "again") == content(tmp_path / "out")


def test_records_from_before_there_was_streaming_are_read(files, tmp_path):
    found = realign_files(settings(files, RECOMMENDED_ALONE), tmp_path / "out")
    del found["settings"]["stream"]
    assert not from_record(found["settings"], "record").stream


def test_streaming_over_a_mesh_is_refused(files, tmp_path):
    asked, mesh = settings(files, RECOMMENDED_ALONE, stream=True), AbstractMesh((1, 2, 1), AXES)
    with pytest.raises(InputError, match="leave one of them out"):
        realign_files(asked, tmp_path / "out", mesh=mesh)


def test_pages_do_not_tell_how_a_run_computed(files, tmp_path):
    realign_files(settings(files, RECOMMENDED_ALONE, stream=True), tmp_path / "out")
    for name in ("report.html", "README.md"):
        assert "<code>stream</code>" not in (tmp_path / "out" / name).read_text()
        assert "`stream`" not in (tmp_path / "out" / name).read_text()


def test_a_carried_norm_is_used(files, tmp_path):
    from safetensors.numpy import load_file, save_file

    save_adapter(nlsr_jax.load_adapter(files / "tuned"), tmp_path / "tuned")
    weights = load_file(tmp_path / "tuned" / "adapter_model.safetensors")
    for layer in (0, 1):
        scale = np.full(32, 0.5 + layer, np.float32)
        weights[f"base_model.model.model.layers.{layer}.input_layernorm.weight"] = scale
    save_file(weights, tmp_path / "tuned" / "adapter_model.safetensors")
    config = json.loads((tmp_path / "tuned" / "adapter_config.json").read_text())
    config["modules_to_save"] = ["input_layernorm"]
    (tmp_path / "tuned" / "adapter_config.json").write_text(json.dumps(config))
    for name, stream in (("memory", False), ("streamed", True)):
        asked = settings(files, RECOMMENDED_ALONE, stream=stream)
        realign_files(dataclasses.replace(asked, finetuned=str(tmp_path / "tuned")), tmp_path / name)
    plain = realign_files(settings(files, RECOMMENDED_ALONE), tmp_path / "plain")
    assert content(tmp_path / "streamed") == content(tmp_path / "memory")
    assert content(tmp_path / "streamed")["masks.safetensors"] != content(tmp_path / "plain")["masks.safetensors"]
    assert plain["summary"]["repaired"] > 0
