"""The benchmark of realigning adapters of 8B shape, with one layer of low rank."""

import json
import subprocess
import sys

import pytest


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_both_sides_run(tmp_path, dtype):
    command = [sys.executable, "-m", "benchmarks.realign_8b", "--layers", "1", "--rank", "2", "--dtype", dtype]
    subprocess.run([*command, "--rounds", "1", "--results", str(tmp_path), "--work", str(tmp_path)], check=True)
    results = [json.loads(line) for line in (tmp_path / "latest.jsonl").read_text().splitlines()]
    kind = "" if dtype == "float32" else "_bfloat16"
    assert [result["name"] for result in results] == [f"realign_8b_time{kind}", f"realign_8b_memory{kind}"]
    assert [(result["dtype"], result["layers"]) for result in results] == [(dtype, 1)] * 2
