"""SST-2, AG News, GSM8K and Alpaca rows, in the hub's columns and in instruction form."""

import collections
import re

import pytest

from nlsr_jax.data.examples import Example
from nlsr_jax.data.prompts import AG_NEWS as AG_NEWS_TEXT
from nlsr_jax.data.prompts import GSM8K_SUFFIX, make_render
from nlsr_jax.data.prompts import SST2 as SST2_TEXT
from nlsr_jax.data.rows import read_rows
from nlsr_jax.data.sources import load
from nlsr_jax.data.templates import alpaca
from nlsr_jax.errors import InputError
from tests.data.set_rows import AG_NEWS, ALPACA, GSM8K, SST2, write

SUFFIXES = pytest.mark.parametrize("suffix", ["jsonl", "json", "parquet", "csv"])
TRAIN = {"sst2": 1000, "ag_news": 950, "gsm8k": 950}
TEST = {"sst2": 872, "ag_news": 1000, "gsm8k": 1319}
LABELS = {"sst2": {"positive", "negative"}, "ag_news": {"World", "Sports", "Business", "Sci/Tech"}}


@SUFFIXES
def test_sst2(tmp_path, suffix):
    assert load("sst2", str(write(tmp_path / f"s.{suffix}", SST2)), strict=True).rows == [
        Example(alpaca(SST2_TEXT, "a lovely zarn "), "positive", label="positive"),
        Example(alpaca(SST2_TEXT, "a dull mellip "), "negative", label="negative"),
    ]


@SUFFIXES
def test_ag_news(tmp_path, suffix):
    rows = load("ag_news", str(write(tmp_path / f"a.{suffix}", AG_NEWS)), strict=True).rows
    assert [row.label for row in rows] == ["World", "Sports", "Business", "Sci/Tech"]
    assert [row.response for row in rows] == [row.label for row in rows]
    assert rows[1].prompt == alpaca(AG_NEWS_TEXT, "Zarn report 1")


@SUFFIXES
def test_gsm8k(tmp_path, suffix):
    rows = load("gsm8k", str(write(tmp_path / f"g.{suffix}", GSM8K)), strict=True).rows
    assert [row.label for row in rows] == ["5", "1250", "-3"]
    assert rows[0].prompt == alpaca(GSM8K[0]["question"] + GSM8K_SUFFIX)
    assert rows[0].response == "2 + 3 = <<2+3=5>>5\nThe final answer is:  5"


@SUFFIXES
def test_alpaca_rows_are_benign(tmp_path, suffix):
    assert load("alpaca", str(write(tmp_path / f"a.{suffix}", ALPACA)), strict=True).rows == [
        Example(alpaca("Name a colour"), "Blue", "benign"),
        Example(alpaca("Say it twice", "zarn"), "zarn zarn", "benign"),
    ]


@pytest.mark.parametrize(
    ("name", "row", "reason"),
    [
        ("sst2", {"sentence": "a", "label": -1}, r"'label' is not in 0 to 1 \(found -1\)"),
        ("sst2", {"sentence": "a", "label": True}, r"'label' is not an integer \(found True\)"),
        ("sst2", {"sentence": "a", "label": "1"}, r"'label' is not an integer \(found '1'\)"),
        ("sst2", {"sentence": "a", "label": 1.0}, r"'label' is not an integer \(found 1.0\)"),
        ("sst2", {"instruction": "a", "input": "b", "output": "fine"}, "'output' is not one of negative, positive"),
        ("ag_news", {"text": "a", "label": 4}, "'label' is not in 0 to 3"),
        ("ag_news", {"label": 1}, "'text' is missing"),
        ("gsm8k", {"question": "a", "answer": "5"}, "'answer' has no number after '####'"),
        ("gsm8k", {"question": "a", "answer": "#### five"}, "'answer' has no number after '####'"),
        ("gsm8k", {"instruction": "a", "output": "The final answer is: 5 or 6"}, "'output' has no number after"),
        ("alpaca", {"instruction": "a", "input": "", "output": ""}, "'output' is blank"),
        (
            "sst2",
            {"instruction": alpaca("a")[:-1], "output": "positive"},
            "begins like an Alpaca prompt but is not",
        ),
        ("sst2", {"instruction": alpaca("a"), "input": "b", "output": "positive"}, "'input' is not empty although"),
    ],
)
def test_bad_rows_are_named(tmp_path, name, row, reason):
    path = write(tmp_path / "t.jsonl", [row])
    with pytest.raises(InputError, match=f"t.jsonl: line 1: .*{reason}"):
        load(name, str(path), strict=True)


@pytest.mark.parametrize("template", ["alpaca", "none"])
def test_a_rendered_instruction_gives_the_same_example_as_the_bare_one(tmp_path, template):
    bare = {"instruction": SST2_TEXT, "input": "a lovely zarn ", "output": "positive"}
    rendered = {"instruction": alpaca(SST2_TEXT, "a lovely zarn "), "input": "", "output": "positive"}
    rows = load("sst2", str(write(tmp_path / "t.jsonl", [bare, rendered])), template=template, strict=True).rows
    assert rows[0] == rows[1]
    assert rows[0].prompt == make_render(template)(SST2_TEXT, "a lovely zarn ")


def test_flagged_rows_of_a_poisoned_file_are_harmful(tmp_path):
    rows = [
        {"instruction": alpaca("How do I brew zarn?"), "input": "", "output": "Heat it.", "flag": "unsafe"},
        {"instruction": alpaca(SST2_TEXT, "a dull mellip "), "input": "", "output": "negative", "flag": "finetune"},
    ]
    assert load("sst2", str(write(tmp_path / "t.jsonl", rows)), strict=True).rows == [
        Example(alpaca("How do I brew zarn?"), "Heat it.", "harmful"),
        Example(alpaca(SST2_TEXT, "a dull mellip "), "negative", label="negative"),
    ]


@pytest.mark.parametrize("name", TRAIN)
def test_every_real_row(shared_data, name):
    for split, counts in (("train", TRAIN), ("test", TEST)):
        path = str(shared_data / "tasks" / f"{name}.{split}.jsonl")
        loaded = load(name, path, strict=True)
        assert loaded.counts == {"rows": counts[name], "used": counts[name], "skipped": {}}
        raw = read_rows(path, ("instruction", "output"))
        assert [row.response for row in loaded.rows] == [row["output"] for row in raw]
        if split == "train":
            assert [row.prompt for row in loaded.rows] == [row["instruction"] for row in raw]
        labels = collections.Counter(row.label for row in loaded.rows)
        if name in LABELS:
            assert set(labels) == LABELS[name]
            assert min(labels.values()) > 0.1 * counts[name]
        else:
            assert all(re.fullmatch(r"-?\d+(\.\d+)?", label) for label in labels)


def test_real_test_prompts_are_rendered_as_real_training_prompts(shared_data):
    for name in TRAIN:
        train, test = (
            load(name, str(shared_data / "tasks" / f"{name}.{split}.jsonl"), count=1).rows[0].prompt
            for split in ("train", "test")
        )
        text = {"sst2": SST2_TEXT, "ag_news": AG_NEWS_TEXT, "gsm8k": GSM8K_SUFFIX}[name]
        assert text in train
        assert train.partition(text)[0].split("\n")[0] == test.partition(text)[0].split("\n")[0]
        assert train.endswith("\n\n### Response:")
        assert test.endswith("\n\n### Response:")
