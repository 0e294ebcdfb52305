"""Runs of adapters that carry more than factors: what is applied, written, recorded and repeated."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

import nlsr_jax
from nlsr_jax.formats.record import read_record
from nlsr_jax.pipeline import Settings, identify_files, realign_files
from nlsr_jax.pipeline.settings import from_record
from nlsr_jax.pipeline.verification import verify
from tests.adapter_files import SIZES, save_inputs
from tests.carried_files import EMBEDDING, HEAD, WRAPPER, add, array, carried_bytes, factors

NAMES = sorted(SIZES)
HEAD_FACTORS = {"target_modules": [*NAMES, "lm_head"]}
WHOLE = {"modules_to_save": ["embed_tokens", "lm_head"]}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A base, rows, adapters of plain factors, and fine-tuned ones that carry more."""
    folder = save_inputs(tmp_path_factory.mktemp("inputs"))
    size = json.loads((folder / "base" / "config.json").read_text())["vocab_size"]
    base = load_file(folder / "base" / "model.safetensors")
    tensors = {f"{HEAD}.base_layer.weight": base["lm_head.weight"], **factors("lm_head", 4, (32, size))}
    save_changed(folder, "lm_head_targeted", tensors, **HEAD_FACTORS)
    save_changed(folder, "aligned_too", tensors, "aligned", **HEAD_FACTORS)
    whole = {f"{HEAD}.weight": array(0, size + 3, 32), f"{EMBEDDING}.weight": array(1, size + 3, 32)}
    save_changed(folder, "modules_to_save", whole, **WHOLE)
    tower = factors("model.vision_tower.layers.0.fc1", 4, (20, 20))
    save_changed(folder, "image_tower", tower, target_modules=[*NAMES, "fc1"])
    return folder


def save_changed(folder, name, tensors, source="finetuned", **config):
    shutil.copytree(folder / source, folder / name)
    add(folder / name, tensors, **config)


def settings(inputs, finetuned, **changes):
    paths = {"base": "base", "aligned": "aligned", "weak": "weak", "calibration": "rows.jsonl"}
    values = {name: str(inputs / path) for name, path in {**paths, "finetuned": finetuned}.items()}
    return Settings(**{**values, **changes})


def without_base(inputs, finetuned, method):
    return settings(inputs, finetuned, method=method, base=None, calibration=None)


@pytest.mark.parametrize(
    ("name", "method"),
    [("lm_head_targeted", "magnitude"), ("modules_to_save", "random"), ("image_tower", "magnitude")],
)
def test_without_a_base_it_is_carried_bit_for_bit(inputs, tmp_path, name, method):
    record = realign_files(without_base(inputs, name, method), tmp_path / "out")
    assert carried_bytes(tmp_path / "out") == carried_bytes(inputs / name)
    plain = realign_files(without_base(inputs, "finetuned", method), tmp_path / "plain")
    ours, theirs = (nlsr_jax.load_adapter(tmp_path / part) for part in ("out", "plain"))
    jax.tree.map(np.testing.assert_array_equal, ours.factors, theirs.factors)

    described = record["carried"]
    expected = carried_bytes(inputs / name)
    assert (described["count"], described["bytes"]) == (len(expected), sum(len(v[2]) for v in expected.values()))
    assert {tensor["name"]: tuple(tensor["shape"]) for tensor in described["tensors"]} == {
        name: shape for name, (_, shape, _) in expected.items()
    }
    (note,) = [line for line in record["warnings"] if "carried unchanged" in line]
    assert str(inputs / name) in note
    assert "carried" not in plain
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Copied unchanged" in page
    assert all(name in page for name in expected)
    assert "Copied unchanged" not in (tmp_path / "plain" / "report.html").read_text()
    assert verify(tmp_path / "out").changed == ()


def test_a_run_is_repeated_from_its_record(inputs, tmp_path):
    realign_files(settings(inputs, "lm_head_targeted", method="gain", weak=None), tmp_path / "one")
    stored = read_record(tmp_path / "one")
    again = from_record(stored["settings"], "record")
    record = realign_files(again, tmp_path / "two", recorded=stored["inputs"])
    name = "adapter_model.safetensors"
    assert record["outputs"][name] == stored["outputs"][name]
    assert record["carried"] == stored["carried"]
    assert verify(tmp_path / "one", recompute=True).changed == ()


@pytest.mark.parametrize("name", ["lm_head_targeted", "modules_to_save"])
def test_the_gradient_is_that_of_the_model_with_what_is_carried(inputs, tmp_path, name):
    """Without the carried tensors, ``gain`` would choose other entries."""
    masks = {}
    for source in (name, "finetuned"):
        realign_files(settings(inputs, source, method="gain", weak=None), tmp_path / source)
        masks[source] = load_file(tmp_path / source / "masks.safetensors")
    assert any(not np.array_equal(masks[name][key], masks["finetuned"][key]) for key in masks[name])
    assert carried_bytes(tmp_path / name) == carried_bytes(inputs / name)


def test_the_statistics_are_those_of_the_aligned_model(inputs, tmp_path):
    """The fine-tuned head has no part in them; the aligned adapter's own has one, and is not written."""
    masks, records = {}, {}
    for name, changes in {
        "plain": {},
        "carrying": {"finetuned": str(inputs / "lm_head_targeted")},
        "aligned": {"aligned": str(inputs / "aligned_too")},
    }.items():
        given = dataclasses.replace(settings(inputs, "finetuned", method="snip", weak=None), **changes)
        records[name] = realign_files(given, tmp_path / name)
        masks[name] = load_file(tmp_path / name / "masks.safetensors")
    for key, mask in masks["plain"].items():
        np.testing.assert_array_equal(masks["carrying"][key], mask)
    assert any(not np.array_equal(masks["aligned"][key], mask) for key, mask in masks["plain"].items())
    (note,) = [line for line in records["aligned"]["warnings"] if "beside the factors" in line]
    assert "neither compared nor written: only those of the fine-tuned adapter are carried" in note
    assert "carried" not in records["aligned"]
    assert carried_bytes(tmp_path / "aligned") == {}


def test_what_the_base_has_no_place_for_is_left_out_and_said_so(inputs, tmp_path):
    record = realign_files(settings(inputs, "image_tower", method="gain", weak=None), tmp_path / "out")
    (note,) = [line for line in record["warnings"] if "leaves out" in line]
    assert "model.vision_tower.layers.0.fc1 (factors)" in note
    assert carried_bytes(tmp_path / "out") == carried_bytes(inputs / "image_tower")


def test_the_automatic_choice_takes_each_adapter_with_its_own(inputs, tmp_path):
    """The vocabularies of the two differ in size."""
    record = realign_files(settings(inputs, "modules_to_save"), tmp_path / "out", automatic={"share": 0.1})
    measured = {"share": 0.1, "aim": 0.001}  # both adapters are measured, and nothing is tried
    plain = realign_files(settings(inputs, "finetuned"), tmp_path / "plain", automatic=measured)
    assert record["automatic"]["aligned"] == plain["automatic"]["aligned"]
    assert {trial["share"] for trial in record["automatic"]["trials"]} == {0.0, 0.1}
    assert record["automatic"]["finetuned"] != plain["automatic"]["finetuned"]


def test_identification_says_what_it_does_with_them(inputs, tmp_path):
    given = dataclasses.replace(settings(inputs, "finetuned"), aligned=str(inputs / "aligned_too"), finetuned=None)
    record = identify_files(given, tmp_path / "out")
    (note,) = [line for line in record["warnings"] if "lm_head" in line]
    assert "only those of the fine-tuned adapter are carried" in note


def test_an_adapter_of_twice_the_rank_carries_them_too(inputs, tmp_path):
    given = dataclasses.replace(without_base(inputs, "lm_head_targeted", "magnitude"), space="product")
    realign_files(given, tmp_path / "out")
    assert carried_bytes(tmp_path / "out") == carried_bytes(inputs / "lm_head_targeted")
    assert nlsr_jax.load_carried(tmp_path / "out").targets["lm_head"] == (4, 2.0)


def test_a_base_that_they_do_not_fit_is_refused_before_any_work(inputs, tmp_path):
    wide = save_wide(inputs, tmp_path)
    with pytest.raises(nlsr_jax.InputError, match=r"is \[9, 24\]; expected a matrix of 32 columns"):
        realign_files(settings(inputs, wide, method="low_rank"), tmp_path / "out")


def save_wide(inputs, folder):
    shutil.copytree(inputs / "finetuned", folder / "wide")
    add(folder / "wide", {f"{WRAPPER}lm_head.weight": array(0, 9, 24)}, modules_to_save=["lm_head"])
    return folder / "wide"


@pytest.mark.parametrize("case", ["lm_head_targeted", "modules_to_save_embeddings"])
@pytest.mark.parametrize("method", ["magnitude"])
def test_the_cases_from_the_field(shared_data, tmp_path, case, method):
    folder = shared_data.parent / "cases" / case
    if not folder.is_dir():
        pytest.skip(f"{folder} is not at hand")
    given = Settings(aligned=str(folder), finetuned=str(folder), method=method)
    record = realign_files(given, tmp_path / "out")
    assert record["summary"]["modules"] == 28
    assert carried_bytes(tmp_path / "out") == carried_bytes(folder)
    assert any("carried unchanged" in line for line in record["warnings"])
