"""The wrong folder, one too high or of another kind: the message names the one that was meant."""

import json
import shutil

import pytest

import nlsr_jax
from nlsr_jax.errors import InputError
from nlsr_jax.files.folders import folders_below
from nlsr_jax.formats.record import read_record
from nlsr_jax.pipeline.verification import verify
from tests.adapter_files import save_family


@pytest.fixture
def adapter(tmp_path):
    save_family(tmp_path / "family")
    return tmp_path / "family" / "finetuned"


def refusal(read, path):
    with pytest.raises(InputError) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_newest_checkpoint_comes_first(tmp_path, adapter):
    run = tmp_path / "run"
    for place in ("checkpoint-9", "checkpoint-30", "checkpoint-15", "checkpoint-30/ref"):
        shutil.copytree(adapter, run / place)
    (run / "logs").mkdir()
    assert refusal(nlsr_jax.load_adapter, run) == (
        f"{run}: adapter_config.json is missing; expected a PEFT adapter directory; did you mean "
        f"{run}/checkpoint-30 (or checkpoint-15, checkpoint-9, checkpoint-30/ref below it)?"
    )


def test_named_adapters_are_found(tmp_path, adapter):
    shutil.copytree(adapter, tmp_path / "run" / "policy")
    assert f"did you mean {tmp_path}/run/policy?" in refusal(nlsr_jax.load_adapter, tmp_path / "run")
    shutil.copytree(adapter, tmp_path / "run" / "ref")
    assert f"did you mean {tmp_path}/run/policy (or ref below it)?" in refusal(
        nlsr_jax.load_adapter, tmp_path / "run"
    )


def test_many_folders_and_links_do_not_hold_up(tmp_path, adapter):
    run = tmp_path / "run"
    for i in range(12):
        shutil.copytree(adapter, run / f"checkpoint-{i}")
    (run / "again").symlink_to(run)
    message = refusal(nlsr_jax.load_adapter, run)
    assert "checkpoint-5 and 5 more below it)?" in message
    assert len(folders_below(run, ("adapter_config.json",))) == 12


def test_a_file_in_place_of_its_folder(adapter):
    assert f"did you mean the folder of this file, {adapter}?" in refusal(
        nlsr_jax.load_adapter, adapter / "adapter_model.safetensors"
    )


def test_weights_below_a_config_alone(adapter):
    (adapter / "final").mkdir()
    (adapter / "adapter_model.safetensors").rename(adapter / "final" / "adapter_model.safetensors")
    assert "adapter_model.safetensors is missing" in refusal(nlsr_jax.load_adapter, adapter)
    assert f"did you mean {adapter}/final?" in refusal(nlsr_jax.load_adapter, adapter)


def test_a_hub_id(tmp_path):
    assert "fetch it by hf download someone/some-adapter" in refusal(nlsr_jax.load_adapter, "someone/some-adapter")


def test_a_model_where_an_adapter_is_expected_and_the_other_way_round(tmp_path, adapter):
    (tmp_path / "up" / "model").mkdir(parents=True)
    (tmp_path / "up" / "model" / "config.json").write_text('{"model_type": "llama"}')
    assert "it is a full model, or an adapter merged into one" in refusal(
        nlsr_jax.load_adapter, tmp_path / "up" / "model"
    )
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": "some/base"}))
    assert "it is an adapter of some/base: give the folder of the model itself" in refusal(
        nlsr_jax.load_model, adapter
    )
    assert f"did you mean {tmp_path}/up/model?" in refusal(nlsr_jax.load_model, tmp_path / "up")


def test_a_pickle_without_its_config(tmp_path):
    (tmp_path / "adapter_model.bin").write_bytes(b"PK")
    message = refusal(nlsr_jax.load_adapter, tmp_path)
    assert "load it with PEFT and save it again with safe_serialization=True" in message
    assert "its adapter_config.json is missing too" in message


def test_masks_and_records_one_folder_too_high(tmp_path, adapter):
    run = tmp_path / "all" / "run"
    run.mkdir(parents=True)
    (run / "masks.safetensors").write_bytes(b"x")
    (run / "realignment.json").write_text("{}")
    for read in (nlsr_jax.load_masks, read_record, verify):
        assert f"did you mean {run}?" in refusal(read, tmp_path / "all")
        assert "it is an adapter" in refusal(read, adapter)
    assert "it is the output of a realignment" in refusal(nlsr_jax.load_adapter, run)
