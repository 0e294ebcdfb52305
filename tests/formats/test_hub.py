"""Models and adapters by their names on the hub, from a cache laid out as the library does it."""

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import constants, errors

import nlsr_jax
from nlsr_jax.errors import InputError
from nlsr_jax.formats.hub import HubName, cached_folder, fetch, parse_hub_name, pinned
from nlsr_jax.formats.peft import open_adapter
from nlsr_jax.formats.quantised_names import full_precision_sibling, sibling_advice
from tests.adapter_files import save_family
from tests.hub_cache import commit_of, put_into_cache
from tests.tiny_base import save_base

NAME = "someone/some-adapter"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    return folder


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("someone/some-adapter", HubName("someone/some-adapter")),
        ("someone/some.adapter@v1.0", HubName("someone/some.adapter", "v1.0")),
        ("someone/some-adapter@refs/pr/3", HubName("someone/some-adapter", "refs/pr/3")),
        ("gpt2", HubName("gpt2")),
        ("./someone/some-adapter", None),
        ("../some-adapter", None),
        ("/models/some-adapter", None),
        ("a/b/c", None),
        ("someone/some-adapter@", None),
        ("someone/..", None),
        ("some one/x", None),
    ],
)
def test_names(text, name):
    assert parse_hub_name(text) == name
    assert name is None or str(name) == text


def test_a_folder_that_exists_is_a_folder(tmp_path, monkeypatch):
    (tmp_path / "someone" / "some-adapter").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert parse_hub_name("someone/some-adapter") is None


def test_an_adapter_by_its_name(tmp_path, cache):
    save_family(tmp_path)
    snapshot = put_into_cache(cache, NAME, tmp_path / "aligned")
    direct = nlsr_jax.load_adapter(tmp_path / "aligned")
    for text in (NAME, f"{NAME}@main", f"{NAME}@{commit_of(NAME)}"):
        assert open_adapter(text).path == snapshot
        found = nlsr_jax.load_adapter(text)
        for module, leaf in direct.factors.items():
            np.testing.assert_array_equal(found.factors[module]["a"], leaf["a"])
    assert cached_folder(NAME, "adapter_config.json") == snapshot
    assert cached_folder("someone/other", "adapter_config.json") is None


def test_a_revision_that_is_not_the_main_one(tmp_path, cache):
    save_family(tmp_path)
    put_into_cache(cache, NAME, tmp_path / "aligned", ref="v2")
    assert open_adapter(f"{NAME}@v2").shapes()
    with pytest.raises(InputError, match=f"fetch it by hf download {NAME}"):
        open_adapter(NAME)


def test_a_base_by_its_name_and_revision(tmp_path, cache):
    put_into_cache(cache, "someone/base", save_base(tmp_path / "base"))
    _, params = nlsr_jax.load_model("someone/base@main")
    _, direct = nlsr_jax.load_model(tmp_path / "base")
    np.testing.assert_array_equal(params["embed"], direct["embed"])


def test_a_name_is_pinned_to_its_commit(tmp_path, cache):
    save_family(tmp_path)
    put_into_cache(cache, NAME, tmp_path / "aligned")
    name = parse_hub_name(NAME)
    assert pinned(name, fetch(name, ["*.json"])) == HubName(NAME, commit_of(NAME))
    assert pinned(name, tmp_path) == name


def test_what_is_asked_of_the_hub(tmp_path, monkeypatch):
    """No pickles, no folders of checkpoints; the revision is passed on."""
    save_family(tmp_path)
    asked = {}

    def download(repo, **arguments):
        asked.update(arguments, repo=repo)
        return str(tmp_path / "aligned")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert nlsr_jax.load_adapter(f"{NAME}@v1").factors
    assert (asked["repo"], asked["revision"]) == (NAME, "v1")
    assert {"adapter_config.json", "adapter_model.safetensors"} <= set(asked["allow_patterns"])
    assert not any(pattern.endswith((".bin", ".pt", "*")) for pattern in set(asked["allow_patterns"]) - LICENCES)
    assert "checkpoint*/*" in asked["ignore_patterns"]


LICENCES = {"LICENSE*", "NOTICE*"}


def bare(kind):
    """An error that its library makes of a response."""
    return kind.__new__(kind)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (bare(errors.GatedRepoError), "it is gated: ask for access"),
        (bare(errors.RepositoryNotFoundError), "there is none of this name, or it is private"),
        (bare(errors.RevisionNotFoundError), "it has no revision v1"),
        (errors.LocalEntryNotFoundError("x"), f"fetch it by hf download {NAME} --revision v1"),
        (errors.OfflineModeIsEnabled("x"), "it cannot be reached, and the cache does not hold it"),
        (OSError("No space\nleft"), "(No space left)"),
        (KeyError(), "(KeyError)"),
    ],
)
def test_why_the_hub_gives_nothing(monkeypatch, error, message):
    def download(*_, **__):
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(InputError) as caught:
        nlsr_jax.load_adapter(f"{NAME}@v1")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "sibling"),
    [
        ("unsloth/Llama-3.2-1B-Instruct-bnb-4bit", "unsloth/Llama-3.2-1B-Instruct"),
        ("unsloth/Qwen3-4B-unsloth-bnb-4bit", "unsloth/Qwen3-4B"),
        ("Qwen/Qwen2.5-7B-Instruct-GPTQ-Int4", "Qwen/Qwen2.5-7B-Instruct"),
        ("Qwen/Qwen3-8B-FP8", "Qwen/Qwen3-8B"),
        ("Qwen/Qwen2-7B-Instruct-AWQ@main", "Qwen/Qwen2-7B-Instruct"),
        ("TheBloke/Llama-2-7B-Chat-GPTQ", "meta-llama/Llama-2-7B-Chat"),
        ("neuralmagic/Meta-Llama-3.1-8B-Instruct-FP8", "meta-llama/Meta-Llama-3.1-8B-Instruct"),
        ("RedHatAI/Mistral-7B-Instruct-v0.3-quantized.w8a8", "mistralai/Mistral-7B-Instruct-v0.3"),
        ("TheBloke/Unheard-Of-7B-AWQ", "Unheard-Of-7B"),
        ("Qwen/Qwen2-7B-Instruct", None),
        ("gpt2", None),
    ],
)
def test_full_precision_siblings(name, sibling):
    assert full_precision_sibling(name) == sibling
    assert (sibling or "no mark") in (sibling_advice(name) or "no mark")


def test_a_quantised_base_that_is_not_at_hand_names_its_sibling(cache):
    with pytest.raises(InputError, match=r"adapters fit the full-precision model too, unsloth/Llama-3\.2-1B$"):
        nlsr_jax.load_model("unsloth/Llama-3.2-1B-unsloth-bnb-4bit")
