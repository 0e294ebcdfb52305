"""The command on a fully fine-tuned model: from files to files, from the record, and over a mesh."""

import shutil

import numpy as np
from safetensors.numpy import load_file, save_file

from tests.e2e.command import contents, error_line, run
from tests.tiny_base import save_base, save_rows

EIGHT = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}


def save_models(folder):
    """An aligned model, one that was fine-tuned from it, and calibration rows; returns the flags."""
    save_base(folder / "instruct")
    shutil.copytree(folder / "instruct", folder / "tuned")
    draw, tensors = np.random.default_rng(1), load_file(folder / "tuned" / "model.safetensors")
    for name in sorted(tensors):
        if "_proj" in name:
            tensors[name] += (0.001 * draw.standard_normal(tensors[name].shape)).astype(np.float32)
    save_file(tensors, folder / "tuned" / "model.safetensors", {"format": "pt"})
    rows = save_rows(folder / "rows.jsonl")
    return ("--base", folder / "instruct", "--finetuned", folder / "tuned", "--calibration", rows)


def test_the_command(tmp_path):
    asked = save_models(tmp_path)
    found = run("realign", *asked, "--batch_size", 4, "--output", tmp_path / "out")
    assert "of 14 modules" in found.stdout
    record = tmp_path / "out" / "realignment.json"
    run("realign", "--from_record", record, "--mesh", "2,2,2", "--output", tmp_path / "mesh", env=EIGHT)
    one, two = contents(tmp_path / "out"), contents(tmp_path / "mesh")
    assert set(one) == set(two) >= {"config.json", "README.md", "masks.safetensors", "report.html"}
    for name in ("model.safetensors", "masks.safetensors", "config.json", "tokenizer.json"):
        assert one[name] == two[name], name
    assert one["model.safetensors"] != (tmp_path / "tuned" / "model.safetensors").read_bytes()
    run("verify", tmp_path / "out", "--recompute")
    failed = run("realign", *asked, "--automatic", "--output", tmp_path / "none", check=False)
    assert "is a full model: leave --automatic out" in error_line(failed)
