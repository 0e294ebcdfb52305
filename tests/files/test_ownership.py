"""What ``--overwrite`` may replace: what the project has written, and all of it."""

import hashlib
import json
import shutil

import numpy as np
import pytest

import nlsr_jax
from nlsr_jax.configs.tiny import SHIPPED
from nlsr_jax.errors import InputError
from nlsr_jax.files import ownership
from nlsr_jax.files.ownership import (
    check_own,
    foreign_adapter,
    foreign_file,
    foreign_folder,
    foreign_model,
    foreign_study,
    json_with,
    lines_with,
    parquet_with,
    text_with,
)
from nlsr_jax.formats.mask_files import save_masks
from nlsr_jax.formats.peft import load_adapter, read_layout, save_adapter
from nlsr_jax.models.load import load_model, save_model
from nlsr_jax.pipeline import Settings, identify_files, realign_files
from nlsr_jax.report import write_report
from tests.adapter_files import save_family
from tests.e2e.command import contents
from tests.own_outputs import RUN, save_training
from tests.report.records import make_record
from tests.tiny_base import save_base


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Adapters, and the outputs of a realignment and of an identification."""
    folder = tmp_path_factory.mktemp("files")
    save_family(folder)
    realign_files(settings(folder), folder / "realigned")
    identify_files(settings(folder), folder / "identified")
    return folder


def settings(folder):
    return Settings(aligned=str(folder / "aligned"), finetuned=str(folder / "finetuned"), method="magnitude")


@pytest.fixture(params=["realigned", "identified"])
def output(files, request, tmp_path):
    return shutil.copytree(files / request.param, tmp_path / "out")


def change(file, **fields):
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def record_of(output):
    return next(output.glob("*ation.json"), output / "realignment.json")


def test_an_output_is_recognised_wherever_it_lies(output):
    assert foreign_folder(output) is None
    check_own(output, foreign_folder)


def test_a_file_that_a_user_has_put_into_an_output_is_named(output):
    (output / "deep").mkdir()
    assert foreign_folder(output) is None, "an empty folder is nothing to be lost"
    (output / "deep" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match=r"has not written deep/thesis.txt; name another output, or move what is"):
        check_own(output, foreign_folder)
    (output / "deep" / "thesis.txt").unlink()
    (output / "data").symlink_to(output.parent)
    assert foreign_folder(output) == f"the run of {record_of(output).name} has not written data"


def test_a_file_that_a_user_has_put_in_place_of_an_outputs_is_named(output):
    name = "masks.safetensors"
    (output / name).write_bytes((output / name).read_bytes()[:-1] + b"x")
    assert foreign_folder(output) == f"{name} is not what the run of {record_of(output).name} has written"


def test_a_part_of_an_output_is_still_one(output):
    (output / "masks.safetensors").unlink()
    assert foreign_folder(output) is None


@pytest.mark.parametrize("text", ["", "{}", "[]", "not JSON", '{"format": "nlsr_jax.realignment"}'])
def test_a_record_of_another_kind_makes_no_output(tmp_path, text):
    (tmp_path / "realignment.json").write_text(text)
    (tmp_path / "thesis.txt").write_text("mine")
    assert foreign_folder(tmp_path) == "realignment.json is not the record of a run"


def test_the_record_of_another_output_makes_none_of_a_folder(files, tmp_path):
    shutil.copytree(files / "finetuned", tmp_path / "mine")
    shutil.copy(files / "realigned" / "realignment.json", tmp_path / "mine")
    assert "adapter_model.safetensors is not what the run of" in foreign_folder(tmp_path / "mine")
    change(
        tmp_path / "mine" / "realignment.json",
        outputs={"adapter_config.json": 5, "adapter_model.safetensors": None},
    )
    assert "adapter_config.json, adapter_model.safetensors is not what" in foreign_folder(tmp_path / "mine")


def test_a_folder_of_other_things_is_described_in_short(tmp_path):
    for i in range(5):
        (tmp_path / f"{i}.txt").touch()
    found = foreign_folder(tmp_path)
    assert found.startswith("this folder holds 0.txt, 1.txt, 2.txt and 2 more and no realignment.json or")


def test_the_output_of_a_training_is_recognised_and_what_lies_beside_it_named(tmp_path):
    save_training(tmp_path)
    assert foreign_folder(tmp_path) is None
    (tmp_path / "notes.md").write_text("mine")
    assert foreign_folder(tmp_path) == "the run of training.json has not written notes.md"
    (tmp_path / "notes.md").unlink()
    for wrong in ({"settings": 3}, {"rows": "x"}, {"base": None}):
        save_training(tmp_path)
        change(tmp_path / "training.json", **wrong)
        assert foreign_folder(tmp_path) == "training.json is not the record of a training"


def test_what_a_user_has_put_in_place_of_a_trainings_files_is_named(tmp_path):
    save_training(tmp_path)
    (tmp_path / "adapter_config.json").write_text("mine")
    assert foreign_folder(tmp_path) == "adapter_config.json is not what the run of training.json has written"
    for name in ("tokenizer.json", "model.safetensors"):
        save_training(tmp_path)
        (tmp_path / name).write_text("mine")
        assert foreign_folder(tmp_path) == f"the run of training.json has not written {name}"
        (tmp_path / name).unlink()
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    assert foreign_folder(tmp_path) is None
    (tmp_path / "metrics.jsonl").write_text("my notes\n")
    assert foreign_folder(tmp_path) == "of metrics.jsonl, line 1 of this file is not a JSON object with step, loss"


def test_trainings_of_former_versions_are_known_by_names_and_layout(files, tmp_path):
    save_adapter(load_adapter(files / "aligned"), tmp_path / "out")
    config = (tmp_path / "out" / "adapter_config.json").read_text()
    (tmp_path / "out" / "training.json").write_text(json.dumps(RUN))
    assert foreign_folder(tmp_path / "out") is None
    for name, text, found in (
        ("config.json", "{}", "the run of training.json has not written config.json"),
        ("model.safetensors", "mine", "the run of training.json has not written model.safetensors"),
        (
            "adapter_config.json",
            config[:-1],
            "adapter_config.json is not what the run of training.json has written",
        ),
    ):
        mine = shutil.copytree(tmp_path / "out", tmp_path / name)
        (mine / name).write_text(text)
        assert foreign_folder(mine) == found
    (tmp_path / "base").mkdir()
    for name, text in (("config.json", "{}"), ("model.safetensors", "x"), ("training.json", json.dumps(RUN))):
        (tmp_path / "base" / name).write_text(text)
    assert foreign_folder(tmp_path / "base") is None


def test_what_a_user_has_put_in_place_of_a_studys_files_is_named(tmp_path):
    study = shutil.copytree(SHIPPED, tmp_path / "study")
    report, config = study / "report.html", study / "dpo" / "adapter_config.json"
    kept = report.read_bytes()
    report.write_text("<title>Mine</title>")
    assert foreign_study(study) == "of report.html, this file is another one"
    report.write_bytes(kept)
    config.write_text(config.read_text().rstrip())
    assert foreign_study(study) == "dpo/adapter_config.json is not what the run of table.json has written"


def test_lines_with_fields_that_a_user_has_added_are_named(tmp_path):
    foreign, file = lines_with("a", "b", others=("c",)), tmp_path / "file"
    file.write_text('{"a": 1, "b": 2}\n{"c": 3, "b": 3, "a": 4}\n')
    assert foreign(file) is None
    file.write_text('{"a": 1, "b": 2}\n{"c": 3, "b": 3, "a": 4, "my_label": 1}\n')
    assert foreign(file) == "line 2 of this file has my_label beside a, b"


def test_the_shipped_study_may_be_made_again_by_what_makes_studies_alone(tmp_path):
    study = shutil.copytree(SHIPPED, tmp_path / "study")
    assert foreign_study(study) is None
    assert "no realignment.json" in foreign_folder(study)
    (study / "dpo" / "README.md").write_text("mine")
    assert foreign_study(study) == "the run of table.json has not written dpo/README.md"
    (study / "dpo" / "README.md").unlink()
    shutil.rmtree(study / "base")  # a quickstart's output has neither this nor a model card
    assert "has not written README.md, calibration.jsonl, dpo/adapter_config.json and" in foreign_study(study)


@pytest.mark.parametrize("text", ["[]", "{}", "[1]", '[{"method": "nlsr"}]', "x"])
def test_another_table_makes_no_study(tmp_path, text):
    (tmp_path / "table.json").write_text(text)
    assert foreign_study(tmp_path) == "table.json is not the table of a study"


def test_adapters_of_save_adapter_are_replaced_and_those_of_peft_kept(files, tmp_path):
    adapter = load_adapter(files / "aligned")
    save_adapter(adapter, tmp_path / "own")
    save_adapter(adapter, tmp_path / "own", overwrite=True, layout=read_layout(files / "finetuned"))
    save_adapter(adapter, save_training(tmp_path / "trained"), overwrite=True)
    assert foreign_adapter(tmp_path / "own") is None
    config = json.loads((tmp_path / "own" / "adapter_config.json").read_text())
    for name, text, more in (
        ("as PEFT writes it", json.dumps(config, indent=2, sort_keys=True), ()),
        ("by hand", json.dumps(config) + "\n", ()),
        ("in training", json.dumps({**config, "inference_mode": False}, indent=2) + "\n", ()),
        ("with a card", json.dumps(config, indent=2) + "\n", ("README.md",)),
        ("with optimizer", json.dumps(config, indent=2) + "\n", ("optimizer.pt",)),
    ):
        mine = shutil.copytree(tmp_path / "own", tmp_path / name)
        (mine / "adapter_config.json").write_text(text)
        for other in more:
            (mine / other).write_text("mine")
        before = contents(mine)
        with pytest.raises(InputError, match="replaces only what nlsr_jax has written, and this folder holds "):
            save_adapter(adapter, mine, overwrite=True)
        assert contents(mine) == before


def test_models_of_save_model_are_replaced_and_others_kept(tmp_path):
    model, params = load_model(save_base(tmp_path / "base"))
    save_model(model, params, tmp_path / "own")
    save_model(model, params, tmp_path / "own", overwrite=True)
    assert foreign_model(tmp_path / "own") is None
    before = contents(tmp_path / "base")
    with pytest.raises(InputError, match="replaces only what nlsr_jax has written"):
        save_model(model, params, tmp_path / "base", overwrite=True)
    assert contents(tmp_path / "base") == before
    change(tmp_path / "own" / "config.json", transformers_version="5.0.0")
    assert foreign_model(tmp_path / "own") is not None


def test_masks_replace_masks_alone(files, tmp_path):
    masks = nlsr_jax.load_masks(files / "realigned")
    save_masks(masks, tmp_path / "masks.safetensors")
    with pytest.raises(InputError, match="output exists"):
        save_masks(masks, tmp_path / "masks.safetensors")
    save_masks(masks, tmp_path / "masks.safetensors", overwrite=True)
    mine = tmp_path / "adapter_model.safetensors"
    for text in (b"mine", (files / "aligned" / mine.name).read_bytes()):
        mine.write_bytes(text)
        with pytest.raises(InputError, match="this file holds no masks"):
            save_masks(masks, mine, overwrite=True)
        assert mine.read_bytes() == text


def test_reports_replace_reports_alone(tmp_path):
    write_report(make_record(), tmp_path / "report.html", {})
    write_report(make_record(), tmp_path / "report.html", {})
    (tmp_path / "thesis.html").write_text("<title>Mine</title>")
    with pytest.raises(InputError, match="this file is another one"):
        write_report(make_record(), tmp_path / "thesis.html", {})
    assert (tmp_path / "thesis.html").read_text() == "<title>Mine</title>"


@pytest.mark.parametrize(
    ("foreign", "own", "others"),
    [
        (json_with("a", "b"), '{"a": 1, "b": 2, "c": 3}', ['{"a": 1}', "[]", "x", '{"a": 1, "b": NaN}', "\xff"]),
        (
            lines_with("a", "b"),
            '{"a": 1, "b": 2}\n{"b": 3, "a": 4}\n',
            ['{"a": 1}\n', '{"a":1,"b":2}\n\n', "x", "3\n"],
        ),
        (text_with("<mark>"), "some <mark> here", ["some mark here", " "]),
        (foreign_file, None, ["x"]),
    ],
)
def test_files_are_recognised_by_what_is_in_them(tmp_path, foreign, own, others):
    file = tmp_path / "file"
    for text in ("", *([own] if own else [])):
        file.write_text(text)
        assert foreign(file) is None, text
    for text in others:
        file.write_text(text, encoding="latin-1")
        assert foreign(file) is not None, text


def test_tables_of_rows_are_recognised_by_their_columns(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    foreign, file = parquet_with("cell", "settings"), tmp_path / "table.parquet"
    for columns, own in ((["cell", "settings", "x"], True), (["cell"], False)):
        pq.write_table(pa.table({name: np.arange(2) for name in columns}), file)
        assert (foreign(file) is None) is own
    file.write_text("mine")
    assert foreign(file) == "this file is not a Parquet table with cell, settings"


def test_a_settled_file_is_digested_once_and_a_changed_one_again(tmp_path, monkeypatch):
    """A file that has just been written is read every time: its times may not show the next change."""
    file, read = tmp_path / "file", []

    def digest(path):
        read.append(path)
        return hashlib.sha256(path.read_bytes()).hexdigest()

    monkeypatch.setattr(ownership, "sha256", digest)
    file.write_bytes(b"one")
    for settled, times in ((60.0, 2), (0.0, 1)):
        monkeypatch.setattr(ownership, "_SETTLED", settled)
        assert all(ownership._is(file, hashlib.sha256(b"one").hexdigest()) for _ in range(2))
        assert len(read) == times
        read.clear()
    file.write_bytes(b"other")
    assert not ownership._is(file, hashlib.sha256(b"one").hexdigest())
