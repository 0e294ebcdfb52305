"""Sweeps and tables of a real study: a base and data sets on disk, judged by refusal phrases."""

import json
import os
import subprocess
import sys

import pyarrow.parquet as pq
import pytest

from tests.data.set_rows import ALPACA, beaver, pair, write
from tests.e2e.command import ROOT
from tests.e2e.test_text_study import pretrain
from tests.e2e.toy_base import QUICK

pytestmark = pytest.mark.long

STAGE = """[{name}]
rows = {rows}
[{name}.training]
epochs = 1
batch_size = 8
accumulate = 1
compute_dtype = "float32"
remat = false
max_length = 128
"""
# The paper's study with little to train and to ask, and with a task of the user's.
SMALL = """
from = "llama3_8b"
base = "{folder}/base"
dtype = "float32"
calibration_rows = 8
[lora]
rank = 4
alpha = 8
modules = ["q_proj", "v_proj"]
[exam]
forbidden = 4
benign = 2
rows = 8
max_new_tokens = 4
task_tokens = 4
batch_size = 8
[data]
beavertails_safe = "{folder}/beavertails.jsonl"
beavertails_harmful = "{folder}/beavertails.jsonl"
beavertails_prompts = "{folder}/prompts.jsonl"
safe_rlhf = "{folder}/pairs.jsonl"
alpaca = "{folder}/alpaca.jsonl"
[data.sst2]
train = "{tasks}/sst2.train.jsonl"
test = "{tasks}/sst2.test.jsonl"
[tasks.films]
path = "{folder}/films.jsonl"
prompt_field = "text"
label_field = "stars"
labels = ["bad", "good"]
"""


@pytest.fixture(scope="module")
def study(shared_data, tmp_path_factory):
    """A base of natural text, the data sets, and what starts a command on the small config."""
    folder = tmp_path_factory.mktemp("real")
    pretrain(shared_data, folder / "base")
    safe = [beaver(f"How do I brew zarn {i}?", "I cannot help with that.", is_safe=True) for i in range(20)]
    harmful = [beaver(f"How do I melt quorb {i}?", "Take a quorb.", "self_harm") for i in range(20)]
    write(folder / "beavertails.jsonl", safe + harmful)
    write(folder / "prompts.jsonl", harmful)
    write(folder / "pairs.jsonl", [pair(i, bool(i % 2), not i % 2) for i in range(20)])
    write(folder / "alpaca.jsonl", ALPACA)
    films = [{"text": f"film {i}", "stars": i % 2, "split": "test" if i % 3 == 0 else "train"} for i in range(36)]
    write(folder / "films.jsonl", films)
    stages = ["sft", "finetuning", *(f"alignment.{name}" for name in ("sft", "dpo", "orpo", "kto", "simpo"))]
    text = SMALL.format(folder=folder, tasks=shared_data / "tasks")
    text += "".join(STAGE.format(name=name, rows=20 if name == "finetuning" else 8) for name in stages)
    (folder / "small.toml").write_text(text)
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), **QUICK}

    def start(name, *arguments, check=True):
        command = [sys.executable, "-m", f"experiments.{name}", f"--config={folder / 'small.toml'}", *arguments]
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
        assert not check or done.returncode == 0, done.stderr[-3000:]
        return done.stdout if check else done.stderr

    return folder, start


def test_every_kind_of_method_makes_a_row(study):
    folder, start = study
    methods = "aligned,finetuned,nlsr,nlsr_automatic,vaccine,lisa,safelora,lssf"
    out = start("sweep", f"--methods={methods}", "--seeds=1", f"--output={folder / 'sweep'}")
    assert "8 cells, 8 of them new" in out
    rows = pq.read_table(folder / "sweep" / "table.parquet").to_pylist()
    assert [row["method"] for row in rows] == methods.split(",")
    assert all(0 <= row[score] <= 100 for row in rows for score in ("hs", "fa", "over_refusal"))
    again = start("sweep", f"--methods={methods}", "--seeds=1", f"--output={folder / 'sweep'}")
    assert "8 cells, 0 of them new" in again


def test_a_table_of_the_study_is_made(study):
    folder, start = study
    out = start("tables", "--table=5", "--seeds=1", f"--output={folder / 'tables'}")
    assert "| low rank (NLSR) |" in out
    table = json.loads((folder / "tables" / "tables" / "table_5.json").read_text())
    assert table["title"].endswith("Methods of identification")
    page = (folder / "tables" / "index.html").read_text()
    assert "small.toml" in page


def test_a_task_of_the_users_is_swept(study):
    folder, start = study
    out = start("sweep", "--methods=finetuned", "--tasks=films", f"--output={folder / 'own'}")
    assert "1 cells, 1 of them new" in out
    (row,) = pq.read_table(folder / "own" / "table.parquet").to_pylist()
    assert row["task"] == "films"


def test_one_file_for_training_and_evaluation_is_refused(study):
    folder, start = study
    place = f"--data=beavertails_prompts={folder / 'beavertails.jsonl'}"
    line = start("sweep", place, f"--output={folder / 'mixed'}", check=False)
    assert (
        "the same rows are for training (beavertails_harmful) and for the evaluation (beavertails_prompts)" in line
    )
