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

# The paper's study with little to train and to ask.
SMALL = """
import dataclasses
from nlsr_jax import configs
from nlsr_jax.study.config import ExamSettings
from nlsr_jax.training.settings import LoraSettings

paper = configs.get("llama3_8b")

def smaller(stage, rows):
    changes = {"epochs": 1, "batch_size": 8, "accumulate": 1, "compute_dtype": "float32", "remat": False}
    training = dataclasses.replace(stage.training, max_length=128, **changes)
    return dataclasses.replace(stage, rows=rows, training=training)

small = dataclasses.replace(
    paper,
    lora=LoraSettings(4, 8.0, ("q_proj", "v_proj")),
    sft=smaller(paper.sft, 8),
    alignment={name: smaller(stage, 8) for name, stage in paper.alignment.items()},
    finetuning=smaller(paper.finetuning, 20),
    calibration_rows=8,
    exam=ExamSettings(forbidden=4, benign=2, rows=8, max_new_tokens=4, task_tokens=4, batch_size=8),
    dtype="float32",
    published=dataclasses.replace(paper.published, draws=2),
)
configs.get = lambda name: small
"""


@pytest.fixture(scope="module")
def study(shared_data, tmp_path_factory):
    """A base of natural text, the data sets, and what starts a command on the small config."""
    folder = tmp_path_factory.mktemp("real")
    pretrain(shared_data, folder / "base")
    (folder / "sitecustomize.py").write_text(SMALL)
    safe = [beaver(f"How do I brew zarn {i}?", "I cannot help with that.", is_safe=True) for i in range(20)]
    harmful = [beaver(f"How do I melt quorb {i}?", "Take a quorb.", "self_harm") for i in range(20)]
    write(folder / "beavertails.jsonl", safe + harmful)
    write(folder / "pairs.jsonl", [pair(i, bool(i % 2), not i % 2) for i in range(20)])
    write(folder / "alpaca.jsonl", ALPACA)
    sources = dict.fromkeys(("beavertails_safe", "beavertails_harmful"), folder / "beavertails.jsonl")
    sources |= {"beavertails_prompts": folder / "beavertails.jsonl", "safe_rlhf": folder / "pairs.jsonl"}
    sources |= {"alpaca": folder / "alpaca.jsonl", "sst2": shared_data / "tasks" / "sst2.train.jsonl"}
    flags = ["--config=llama3_8b", f"--base={folder / 'base'}"]
    flags += [f"--data={name}={path}" for name, path in sources.items()]
    path = os.pathsep.join([str(folder), str(ROOT)])
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": path, **QUICK}

    def start(name, *arguments):
        command = [sys.executable, "-m", f"experiments.{name}", *flags, *arguments]
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

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
    assert "the study llama3_8b" in page
