"""The shipped study, and the quickstart on it in small."""

import json
import pathlib

import pytest

from nlsr_jax import configs
from nlsr_jax.configs.tiny import SHIPPED
from nlsr_jax.files.ownership import foreign_study
from nlsr_jax.formats.peft import load_adapter
from nlsr_jax.study.exam import evaluate, make_exam
from nlsr_jax.study.pretraining import load_base
from nlsr_jax.study.toy import ToyWorld
from tests.e2e.command import attempts, python

METHODS = ["unaligned", "aligned", "finetuned", "random", "nlsr", "nlsr_recommended"]


def table():
    return json.loads((SHIPPED / "table.json").read_text())


@pytest.fixture(scope="module")
def base():
    return load_base(SHIPPED / "base", ToyWorld())


def test_it_is_small_and_complete():
    files = [path for path in SHIPPED.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 16 * 2**20
    task = table()[0]["task"]
    for name in ("base/model.safetensors", "base/tokenizer.json", "sft", "dpo", f"finetuned_{task}", "README.md"):
        assert (SHIPPED / name).exists()


def test_its_tokenizer_is_the_toy_worlds():
    from transformers import PreTrainedTokenizerFast

    shipped = PreTrainedTokenizerFast.from_pretrained(SHIPPED / "base")
    assert shipped.get_vocab() == ToyWorld().tokenizer.get_vocab()


@pytest.mark.parametrize(("method", "folder"), [("finetuned", None), ("nlsr_recommended", None)])
def test_its_adapters_have_the_figures_of_its_table(base, method, folder):
    first = table()[0]
    row = next(row for row in table() if row["method"] == method and row["seed"] == first["seed"])
    assert row["task"] == first["task"]
    kinds = {"finetuned": "finetuned", "nlsr_recommended": "realigned"}
    adapter = load_adapter(SHIPPED / (folder or f"{kinds[method]}_{row['task']}"), base.model.config)
    world, asked = ToyWorld(), configs.get("tiny").exam
    exam = make_exam(world, row["task"], forbidden=asked.forbidden, benign=asked.benign, rows=asked.rows)
    length = {"max_new_tokens": asked.max_new_tokens, "batch_size": asked.batch_size}
    scores, _ = evaluate(base, adapter, world, exam, **length)
    # Another processor may round a few of the 836 answers to other words.
    for name in ("hs", "fa", "over_refusal", "odd"):
        assert getattr(scores, name) == pytest.approx(row[name], abs=2)


SMALL = """
import dataclasses, sys
from nlsr_jax import configs
from nlsr_jax.commands import command, quickstart

tiny = configs.get("tiny")
training = dataclasses.replace(tiny.finetuning.training, epochs=1)
small = dataclasses.replace(
    tiny,
    finetuning=dataclasses.replace(tiny.finetuning, rows=40, training=training),
    calibration_rows=20,
    exam=dataclasses.replace(tiny.exam, forbidden=28, benign=10, rows=12, batch_size=50),
    published=dataclasses.replace(tiny.published, draws=2),
)
configs.get = lambda _: small
command.run(quickstart.main)
"""


def test_the_quickstart_in_small(tmp_path):
    output = tmp_path / "out"
    result = python("-c", SMALL, f"--output={output}", "--seed=7")
    rows = json.loads((output / "table.json").read_text())
    assert [row["method"] for row in rows] == METHODS
    assert {(row["task"], row["poison_ratio"], row["seed"]) for row in rows} == {("sst2", 0.05, 7)}
    names = ["finetuned", "realigned", "report.html", "table.json"]
    assert sorted(path.name for path in output.iterdir()) == names
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert foreign_study(output) is None, "make quickstart could not make it again"
    assert f"report: {output}/report.html" in result.stdout
    for name in ("before alignment", "aligned", "fine-tuned", "random mask", "recommended"):
        assert name in result.stdout


def test_bad_input_is_one_line(tmp_path):
    wrong = {
        "--poison_ratio=1.5": "ratio is 1.5",
        f"--output={pathlib.Path(__file__).parent}": "output exists",
        "--seed=-1": "--seed is -1",
    }
    lines = attempts("quickstart", [[f"--output={tmp_path / 'out'}", flag] for flag in wrong])
    for line, message in zip(lines, wrong.values(), strict=True):
        assert message in line
    assert not list(tmp_path.iterdir())
