"""Names of base models: which are of one model, as far as names tell."""

import pytest

from nlsr_jax.pipeline.base_names import note_bases, plain_name

CACHED = "/root/.cache/huggingface/hub/models--meta-llama--Llama-3.2-1B-Instruct/snapshots/9213176726f574b5/"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("meta-llama/Llama-3.2-1B-Instruct", "unsloth/Llama-3.2-1B-Instruct"),
        ("meta-llama/Llama-3.2-1B-Instruct", "/models/Llama-3.2-1B-Instruct/"),
        ("meta-llama/Llama-3.2-1B-Instruct", "./Llama-3.2-1B-Instruct//"),
        ("meta-llama/Llama-3.2-1B-Instruct", "C:\\models\\Llama-3.2-1B-Instruct"),
        ("meta-llama/Llama-3.2-1B-Instruct", CACHED),
        ("meta-llama/Meta-Llama-3.1-8B", "unsloth/meta-llama-3.1-8b-bnb-4bit"),
        ("meta-llama/Llama-3.2-1B-Instruct", "unsloth/llama-3.2-1b-instruct-unsloth-bnb-4bit"),
        ("Qwen/Qwen2.5-7B-Instruct", "Qwen/Qwen2.5-7B-Instruct-GPTQ-Int4"),
        ("Qwen/Qwen2.5-7B-Instruct", "Qwen/Qwen2.5-7B-Instruct-AWQ"),
        ("mistralai/Mistral-7B-v0.3", "mlx-community/Mistral-7B-v0.3-4bit"),
        ("mistralai/Mistral-7B-v0.3", ""),
        ("mistralai/Mistral-7B-v0.3", None),
        ("mistralai/Mistral-7B-v0.3", "  "),
    ],
)
def test_names_of_one_model_agree(one, other):
    assert note_bases({"aligned": one, "finetuned": other}) == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("example/aligned-base", "example/finetuned-base"),
        ("meta-llama/Llama-3.2-1B", "meta-llama/Llama-3.2-1B-Instruct"),
        ("meta-llama/Llama-3.2-1B", "meta-llama/Llama-3.2-3B"),
        ("Qwen/Qwen2-7B", "Qwen/Qwen2.5-7B-bnb-4bit"),
        ("mistralai/Mistral-7B-v0.1", "mistralai/Mistral-7B-v0.3"),
        ("/runs/merged", "meta-llama/Llama-3.2-1B"),
    ],
)
def test_names_of_different_models_are_noted(one, other):
    (note,) = note_bases({"--base": None, "aligned": one, "weak": one, "finetuned": other})
    assert f"the base models differ by name: aligned {one}, weak {one}, finetuned {other};" in note


def test_a_folder_is_named_as_it_lies(tmp_path, monkeypatch):
    (tmp_path / "Llama-3").mkdir()
    monkeypatch.chdir(tmp_path / "Llama-3")
    assert plain_name(".") == plain_name("./") == "llama-3"


@pytest.mark.parametrize("name", [7, ["x"], {}])
def test_what_is_no_name_names_nothing(name):
    assert plain_name(name) is None
