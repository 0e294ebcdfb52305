"""What is odd about a base reaches the record and the output of a run."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from nlsr_jax.errors import InputError
from nlsr_jax.formats.peft import load_adapter, save_adapter
from nlsr_jax.pipeline import Settings, Stages, identify_files, realign_files
from tests.adapter_files import save_inputs


@pytest.fixture
def files(tmp_path):
    """Inputs of a realignment whose base is tied in its config, has another head, an old index and a few tokens."""
    folder = save_inputs(tmp_path)
    base = folder / "base"
    (base / "model.safetensors.index.json").write_text("{}")
    change_json(base / "config.json", tie_word_embeddings=True)
    return folder


def change_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def settings(files, **changes):
    named = {name: str(files / name) for name in ("base", "aligned", "finetuned")}
    return Settings(**{**named, "calibration": str(files / "rows.jsonl"), **changes})


def add_token(files, word):
    """Give the tokenizer one token more than the embedding has rows."""
    path = files / "base" / "tokenizer.json"
    content = json.loads(path.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary[word] = len(vocabulary)
    path.write_text(json.dumps(content))


def test_notes_stand_in_the_record_and_are_printed(files, capfd):
    add_token(files, "new")
    record = realign_files(settings(files), files / "out", stages=Stages(show=True))
    said = capfd.readouterr().err
    expected = ["the tokenizer's tokens run to", "model.safetensors.index.json: not read", "lm_head.weight differs"]
    assert all(any(part in warning for warning in record["warnings"]) for part in expected)
    assert all(f"note: {warning}" in said.replace("\n", " ") for warning in record["warnings"])
    found = identify_files(settings(files), files / "masks")
    assert found["warnings"] == record["warnings"]
    given = settings(files, masks=str(files / "masks" / "masks.safetensors"), base=None, calibration=None)
    assert realign_files(given, files / "again")["warnings"] == []


def test_the_other_head_is_what_calibrates(files):
    """SNIP sees the logits: the head decides its masks."""
    untied = settings(files, method="snip")
    one = identify_files(untied, files / "one")
    change_json(files / "base" / "config.json", tie_word_embeddings=False)
    assert identify_files(untied, files / "two")["outputs"] == one["outputs"]
    path = files / "base" / "model.safetensors"
    tensors = load_file(path)
    save_file({**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"].copy()}, path, {"format": "pt"})
    assert identify_files(untied, files / "three")["outputs"] != one["outputs"]
    assert "warnings" in one
    assert np.isfinite(one["seconds"]["calibrate"])


def test_a_calibration_row_beyond_the_embedding_is_refused(files):
    add_token(files, "new")
    rows = files / "rows.jsonl"
    rows.write_text(rows.read_text() + json.dumps({"prompt": "how do i", "response": "yes new"}) + "\n")
    with pytest.raises(
        InputError, match=r"rows\.jsonl: row 13: tokens run from .*; the vocabulary has .*'new' has"
    ):
        realign_files(settings(files), files / "out")
    assert not (files / "out").exists()


@pytest.mark.parametrize("prefix", ["model.model.", "language_model.model."])
def test_layers_in_another_place_than_those_of_the_base_are_noted(tmp_path, prefix):
    folder = save_inputs(tmp_path)
    for name in ("aligned", "finetuned"):
        path = folder / name / "adapter_model.safetensors"
        renamed = {key.replace(".model.model.", f".model.{prefix}"): v for key, v in load_file(path).items()}
        save_file(renamed, path)
    (note,) = realign_files(settings(folder), folder / "out")["warnings"]
    assert (
        f"its layers are in {prefix}layers, and written so; those of {folder / 'base'} are in model.layers" in note
    )
    without = settings(folder, method="magnitude", base=None, calibration=None)
    assert realign_files(without, folder / "unknown")["warnings"] == []
    save_adapter(load_adapter(folder / "out"), folder / "plain")  # what the note advises
    names = load_file(folder / "plain" / "adapter_model.safetensors")
    assert all(name.startswith("base_model.model.model.layers.") for name in names)
