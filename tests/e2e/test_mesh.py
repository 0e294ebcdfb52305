"""Training and evaluation on a mesh: the same as on one device, up to the rounding of sums."""

import numpy as np
import pytest
from safetensors.numpy import load_file

from nlsr_jax.configs.tiny import SHIPPED
from tests.e2e.command import error_line, run

FOUR = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
FEW = ("--start", SHIPPED / "dpo", "--rows", "24", "--epochs", "1")


@pytest.mark.long
def test_training_on_a_mesh(tmp_path):
    run("finetune", *FEW, "--output", tmp_path / "one")
    run("finetune", *FEW, "--mesh", "2,2,1", "--output", tmp_path / "four", env=FOUR)
    start = load_file(SHIPPED / "dpo" / "adapter_model.safetensors")
    one, four = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("one", "four"))
    changed = max(np.abs(one[name] - start[name]).max() for name in start)
    apart = max(np.abs(one[name] - four[name]).max() for name in start)
    assert apart < 0.02 * changed  # AdamW's first steps magnify rounding where a gradient is near zero


@pytest.mark.long
def test_evaluation_on_a_mesh(tmp_path):
    exam = ("--adapter", SHIPPED / "dpo", "--forbidden", "12", "--benign", "8", "--rows", "8")
    for name, mesh, env in (("one", (), {}), ("four", ("--mesh", "1,2,2"), FOUR)):
        files = ("--output", tmp_path / f"{name}.json", "--responses", tmp_path / f"{name}.jsonl")
        run("evaluate", *exam, *mesh, *files, env=env)
    assert len((tmp_path / "one.jsonl").read_text().splitlines()) == 28
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "four.jsonl").read_bytes()


def test_a_mesh_without_its_devices_is_named(tmp_path):
    found = run(
        "evaluate", "--adapter", SHIPPED / "dpo", "--mesh", "7,1,1", "--output", tmp_path / "none", check=False
    )
    assert "mesh (7, 1, 1) needs 7 devices" in error_line(found)
