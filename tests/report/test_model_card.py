"""The model card of a realigned adapter: what the hub reads of it, and that a record's texts are data."""

import json

import pytest
import yaml

from nlsr_jax.report.model_card import realignment_card
from tests.report.records import make_record


def front_matter(text):
    _, front, rest = text.split("---\n", 2)
    return yaml.safe_load(front), rest


def test_front_matter_and_figures():
    record = make_record()
    text = realignment_card(record, base="someone/base-7b", weights="ab" * 32, licence={"license": "mit"})
    front, rest = front_matter(text)
    assert front == {
        "base_model": "someone/base-7b",
        "base_model_relation": "adapter",
        "library_name": "peft",
        "license": "mit",
        "tags": ["lora", "safety", "nlsr", "realignment"],
    }
    summary = record["summary"]
    assert f"{summary['repaired']} of {summary['modules']}" in rest
    assert f"{summary['changed_entries']:,} of {summary['total_entries']:,}" in rest
    assert f"`{'ab' * 32}`" in rest
    assert "nlsr verify THIS_FOLDER --recompute" in rest


def test_settings_are_there_and_paths_are_not():
    record = make_record()
    record["settings"] |= {"base": "/home/someone/base", "calibration": "/home/someone/rows.jsonl"}
    text = realignment_card(record, base="/home/someone/models/base-7b/")
    front, rest = front_matter(text)
    assert "base_model" not in front
    assert "/home/someone" not in text
    assert "`base-7b`" in rest
    for name, value in record["settings"].items():
        if (
            name not in ("base", "aligned", "finetuned", "weak", "calibration", "allow_unrelated")
            and value is not None
        ):
            assert f"| `{name}` | `{json.dumps(value)}` |" in rest


def test_the_same_record_gives_the_same_text_whatever_the_machine():
    one, other = make_record(), make_record()
    other |= {"seconds": {"write": 9.0}, "device": {"kind": "x"}, "versions": {"jax": "9"}, "commit": "f" * 40}
    assert realignment_card(one, base=None) == realignment_card(other, base=None)


@pytest.mark.parametrize("base", ['x/y"\nlicense: evil', "x/y\n---\n# Evil", "a/`b`|c", "../../etc"])
def test_names_are_data(base):
    record = make_record()
    record["companions"] = {"files": {"a`|b.json": "a.json"}, "left_out": {"x\n# Evil": "a pickle"}}
    front, rest = front_matter(realignment_card(record, base=base))
    assert set(front) <= {"base_model", "base_model_relation", "library_name", "tags"}
    assert "\n# Evil" not in rest


def test_what_was_carried_and_left_out():
    record = make_record()
    record["companions"] = {
        "files": {"README.customer.md": "README.md", "tokenizer.json": "tokenizer.json"},
        "left_out": {"training_args.bin": "a pickle"},
    }
    text = realignment_card(record, base=None)
    assert "- `README.customer.md` (its `README.md`)\n" in text
    assert "- `tokenizer.json`\n" in text
    assert "- `training_args.bin`: a pickle\n" in text
