"""What a realigned adapter's folder holds beside the adapter, and inputs by their names on the hub."""

import json
import shutil

import pytest
import yaml
from huggingface_hub import constants

from nlsr_jax.errors import InputError
from nlsr_jax.files.digests import sha256
from nlsr_jax.formats.record import is_sealed
from nlsr_jax.pipeline import Settings, realign_files
from nlsr_jax.pipeline.hub_inputs import hub_name
from nlsr_jax.pipeline.verification import verify
from tests.adapter_files import save_family
from tests.hub_cache import commit_of, put_into_cache
from tests.tiny_base import save_base, save_tokenizer

NAME = "someone/some-adapter"
README = "---\nlicense: mit\n---\n# Mine\nHS 0 %\n"


@pytest.fixture
def files(tmp_path):
    save_family(tmp_path)
    folder = tmp_path / "finetuned"
    save_tokenizer(folder)
    (folder / "README.md").write_text(README)
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tools.jinja").write_text("{{ x }}")
    (folder / "training_args.bin").write_bytes(b"\x80\x04")
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "someone/base-7b"
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return tmp_path


def repair(files, output, **changes):
    options = {name: changes.pop(name) for name in ("recorded", "overwrite") if name in changes}
    paths = {name: str(files / name) for name in ("aligned", "finetuned")}
    return realign_files(Settings(**{**paths, "method": "magnitude", **changes}), output, **options)


def test_the_customers_files_and_a_card(files, tmp_path):
    out = tmp_path / "out"
    record = repair(files, out)
    assert (out / "README.customer.md").read_text() == README
    for name in ("tokenizer.json", "tokenizer_config.json", "additional_chat_templates/tools.jinja"):
        assert (out / name).read_bytes() == (files / "finetuned" / name).read_bytes()
        assert record["outputs"][name] == record["inputs"]["companions"]["files"][name] == sha256(out / name)
    assert not (out / "training_args.bin").exists()
    assert record["companions"]["left_out"] == {"training_args.bin": "a pickle"}
    assert record["companions"]["files"]["README.customer.md"] == "README.md"
    text = (out / "README.md").read_text()
    front = yaml.safe_load(text.split("---\n")[1])
    assert (front["base_model"], front["license"], front["library_name"]) == ("someone/base-7b", "mit", "peft")
    assert record["outputs"]["adapter_model.safetensors"] in text
    assert str(tmp_path) not in text
    assert is_sealed(out / "realignment.json")
    assert "files beside the fine-tuned adapter" in (out / "report.html").read_text()


def test_a_folder_without_other_files_has_a_card_alone(files, tmp_path):
    record = repair(files, tmp_path / "out", finetuned=str(files / "weak"))
    assert {p.name for p in (tmp_path / "out").iterdir() if p.is_file()} == {
        "README.md", "adapter_config.json", "adapter_model.safetensors", "masks.safetensors", "realignment.json",
        "report.html",
    }  # fmt: skip
    assert record["inputs"]["companions"]["files"] == {}


def test_verify_accepts_it_and_finds_what_has_changed(files, tmp_path):
    out = tmp_path / "out"
    record = repair(files, out)
    found = verify(out, recompute=True)
    assert (found.changed, found.missing) == ((), ())
    shutil.move(files / "finetuned", tmp_path / "elsewhere")
    assert verify(out, moved={"finetuned": str(tmp_path / "elsewhere")}).missing == ()
    (tmp_path / "elsewhere" / "tokenizer.json").write_text("{}")
    (out / "README.md").write_text("mine")
    changed = verify(out, moved={"finetuned": str(tmp_path / "elsewhere")}).changed
    assert [line.split(":")[0] for line in changed] == ["README.md", "companions"]
    with pytest.raises(InputError, match=r"companions file tokenizer\.json .* --finetuned"):
        repair(files, tmp_path / "no", finetuned=str(tmp_path / "elsewhere"), recorded=record["inputs"])


def test_a_record_repeats_to_the_same_bytes_whether_it_has_them_or_not(files, tmp_path):
    record = repair(files, tmp_path / "out")
    again = repair(files, tmp_path / "again", recorded=record["inputs"])
    for name in ("README.md", "README.customer.md", "tokenizer.json", "adapter_model.safetensors"):
        assert again["outputs"][name] == record["outputs"][name]
    former = {name: entry for name, entry in record["inputs"].items() if name != "companions"}
    old = repair(files, tmp_path / "old", recorded=former)
    gone = set(record["outputs"]) - set(old["outputs"])
    assert {name for name in gone if not name.startswith("checkpoint/")} == {
        "README.md", "README.customer.md", "additional_chat_templates/tools.jinja", "tokenizer.json",
        "tokenizer_config.json",
    }  # fmt: skip
    assert "companions" not in old
    assert "companions" not in old["inputs"]
    assert old["outputs"]["adapter_model.safetensors"] == record["outputs"]["adapter_model.safetensors"]
    assert verify(tmp_path / "old", recompute=True).changed == ()


def test_an_output_with_companions_is_replaced_where_that_is_asked_for(files, tmp_path):
    repair(files, tmp_path / "out")
    repair(files, tmp_path / "out", overwrite=True)
    (tmp_path / "out" / "tokenizer.json").write_text("mine")
    with pytest.raises(InputError, match=r"tokenizer\.json is not what the run"):
        repair(files, tmp_path / "out", overwrite=True)


def test_a_repaired_adapter_is_repaired_again(files, tmp_path):
    repair(files, tmp_path / "out")
    record = repair(files, tmp_path / "twice", finetuned=str(tmp_path / "out"))
    assert (tmp_path / "twice" / "README.customer.md").read_text() == README
    assert (tmp_path / "twice" / "README.customer.2.md").read_bytes() == (tmp_path / "out/README.md").read_bytes()
    assert "report.html" not in record["companions"]["files"]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    return folder


def test_adapters_by_their_names_on_the_hub(files, tmp_path, cache):
    for name in ("aligned", "finetuned"):
        put_into_cache(cache, f"someone/{name}", files / name)
    record = repair(files, tmp_path / "out", aligned="someone/aligned@main", finetuned="someone/finetuned")
    direct = repair(files, tmp_path / "direct")
    for name in ("adapter_model.safetensors", "README.md", "tokenizer.json"):
        assert record["outputs"][name] == direct["outputs"][name]
    assert record["inputs"]["finetuned"]["files"] == direct["inputs"]["finetuned"]["files"]
    assert commit_of("someone/finetuned") in record["inputs"]["finetuned"]["path"]
    found = verify(tmp_path / "out", recompute=True)
    assert (found.changed, found.missing) == ((), ())


def test_a_snapshot_of_another_machine_is_found_by_its_name(files, tmp_path, cache):
    snapshot = put_into_cache(cache, NAME, files / "finetuned")
    far = f"/far/away/{snapshot.relative_to(cache)}"
    assert str(hub_name(far)) == f"{NAME}@{commit_of(NAME)}"
    assert hub_name(str(snapshot)) is None
    record = repair(files, tmp_path / "out", finetuned=far)
    assert record["inputs"]["finetuned"]["path"] == str(snapshot)


def test_a_base_by_its_name_is_digested(files, tmp_path, cache):
    put_into_cache(cache, "someone/base", save_base(tmp_path / "base"))
    (tmp_path / "rows.jsonl").write_text('{"prompt": "how do i", "response": "i cannot"}\n' * 4)
    changes = {"method": "wanda", "calibration": str(tmp_path / "rows.jsonl")}
    record = repair(files, tmp_path / "out", base="someone/base", **changes)
    assert record["inputs"]["base"]["files"]["config.json"] == sha256(tmp_path / "base" / "config.json")
    former = {**record["inputs"], "base": {"path": "someone/base", "files": {}}}
    again = repair(files, tmp_path / "again", base="someone/base", recorded=former, **changes)
    assert again["outputs"]["adapter_model.safetensors"] == record["outputs"]["adapter_model.safetensors"]


def test_a_quantised_base_that_the_adapter_names_and_nobody_has(files, tmp_path, cache):
    path = files / "finetuned" / "adapter_config.json"
    name = "unsloth/Llama-3.2-1B-Instruct-bnb-4bit"
    path.write_text(json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": name}))
    rows = str(tmp_path / "rows.jsonl")
    with pytest.raises(InputError) as caught:
        repair(files, tmp_path / "out", aligned=None, method="gain", beta=0.0, calibration=rows)
    for part in (name, f"hf download {name}", "full-precision model too, unsloth/Llama-3.2-1B-Instruct"):
        assert part in str(caught.value)
