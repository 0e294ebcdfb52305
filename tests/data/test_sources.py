"""Loading by name: defaults, counts and the way to the hub."""

import pytest

from nlsr_jax.data import places
from nlsr_jax.data.sources import DATA_SETS, load, load_kto
from nlsr_jax.errors import InputError
from tests.data.set_rows import AG_NEWS, GSM8K, SAFE_RLHF, SST2, write


def test_unknown_names_list_the_known_ones():
    with pytest.raises(InputError, match=r"unknown data set 'sst'; expected one of beavertails_safe, .*sst2"):
        load("sst")


def test_the_first_rows_in_file_order(tmp_path):
    path = str(write(tmp_path / "a.jsonl", AG_NEWS))
    assert [row.label for row in load("ag_news", path, count=2).rows] == ["World", "Sports"]
    with pytest.raises(InputError, match="5 rows requested, but only 4 of 4 rows are usable; request at most 4"):
        load("ag_news", path, count=5)


@pytest.mark.parametrize(
    ("name", "split", "asked"),
    [
        ("gsm8k", None, ("openai/gsm8k", "train", "main")),
        ("gsm8k", "test", ("openai/gsm8k", "test", "main")),
        ("sst2", DATA_SETS["sst2"].test, ("stanfordnlp/sst2", "validation", None)),
        ("beavertails_harmful", None, ("PKU-Alignment/BeaverTails", "30k_train", None)),
        ("beavertails_prompts", None, ("PKU-Alignment/BeaverTails", "30k_test", None)),
        ("tiny_winogrande", None, ("tinyBenchmarks/tinyWinogrande", "validation", "winogrande_xl")),
    ],
)
def test_the_hub_is_asked_for_name_split_and_configuration(monkeypatch, name, split, asked):
    calls = []

    def hub_rows(*args):
        calls.append(args)
        return iter(())

    monkeypatch.setattr(places, "hub_rows", hub_rows)
    with pytest.raises(InputError, match="0 of 0 rows"):
        load(name, split=split)
    assert calls == [asked]


def test_another_hub_name_is_read_the_same_way(monkeypatch):
    monkeypatch.setattr(
        places, "hub_rows", lambda *_: iter([(f"train row {i}", row) for i, row in enumerate(GSM8K)])
    )
    assert len(load("gsm8k", "someone/gsm8k-copy", strict=True).rows) == 3


def test_without_the_network_the_hub_name_is_in_the_message():
    with pytest.raises(InputError, match="stanfordnlp/sst2: no such file, and cannot be loaded as a hub data set"):
        load("sst2")


def test_a_directory_that_datasets_saved(tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_list(SST2).save_to_disk(str(tmp_path / "sst2"))
    datasets.Dataset.from_list(SAFE_RLHF).save_to_disk(str(tmp_path / "pairs"))
    assert len(load("sst2", str(tmp_path / "sst2"), strict=True).rows) == 2
    assert len(load("safe_rlhf", str(tmp_path / "pairs"), strict=True).rows) == 3
    assert len(load_kto(str(tmp_path / "pairs"), safe=1, unsafe=1, strict=True).rows) == 2


def test_the_template_is_checked_first():
    with pytest.raises(InputError, match="template is 'zarn'"):
        load("sst2", "absent.jsonl", template="zarn")
