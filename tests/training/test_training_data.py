"""What a model was trained on is read from its record, and from that of the adapter that was repaired."""

import json

from nlsr_jax.training.training_data import trained_files, training_data, united

ONE = {"name": "a.csv", "sha256": "1" * 64, "rows": "all"}
TWO = {"name": "b.csv", "sha256": "2" * 64, "rows": "train"}


def test_the_record_of_a_training_and_of_a_repair(tmp_path):
    tuned, repaired = tmp_path / "tuned", tmp_path / "repaired"
    for folder in (tuned, repaired):
        folder.mkdir()
    (tuned / "training.json").write_text(json.dumps({"data": [ONE, TWO]}))
    (repaired / "realignment.json").write_text(json.dumps({"settings": {"finetuned": str(tuned)}}))
    expected = {ONE["sha256"]: "all", TWO["sha256"]: "train"}
    assert trained_files(tuned) == trained_files(repaired) == expected
    assert trained_files(None) == trained_files(tmp_path / "none") == trained_files("owner/name") == {}


def test_records_without_data_and_broken_ones_tell_nothing(tmp_path):
    for text in ("{}", "[", '{"data": 3}', '{"data": [{"name": 1}]}'):
        (tmp_path / "training.json").write_text(text)
        assert training_data(tmp_path) == []
    (tmp_path / "realignment.json").write_text(json.dumps({"settings": {"finetuned": str(tmp_path)}}))
    assert training_data(tmp_path) == []


def test_files_are_united_once_each():
    assert united([[TWO, ONE], [ONE]]) == [ONE, TWO]
