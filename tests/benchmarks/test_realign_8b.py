"""The benchmark of realigning adapters of 8B shape, with one layer of low rank."""

import json
import subprocess
import sys

import pytest


@pytest.mark.long
def test_both_sides_run(tmp_path):
    dtype = "bfloat16"  # which has a name of its own beside all that float32 does
    command = [sys.executable, "-m", "benchmarks.realign_8b", "--layers", "1", "--rank", "2", "--dtype", dtype]
    subprocess.run([*command, "--rounds", "1", "--results", str(tmp_path), "--work", str(tmp_path)], check=True)
    results = [json.loads(line) for line in (tmp_path / "latest.jsonl").read_text().splitlines()]
    assert [result["name"] for result in results] == ["realign_8b_time_bfloat16", "realign_8b_memory_bfloat16"]
    assert results[0]["limit_s"] > 0
    assert [(result["dtype"], result["layers"]) for result in results] == [(dtype, 1)] * 2
