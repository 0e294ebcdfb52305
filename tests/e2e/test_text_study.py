"""Natural text from nothing to a score: a tokenizer and a base trained on SST-2 rows, fine-tuned, evaluated."""

import json

import numpy as np
import pytest

import nlsr_jax
from tests.data.set_rows import ALPACA, BEAVERTAILS, write
from tests.e2e.command import run
from tests.e2e.toy_base import QUICK

pytestmark = [pytest.mark.slow, pytest.mark.long]


def train(name, *arguments):
    return run(name, *arguments, env=QUICK)


def pretrain(shared_data, output):
    data = f"sst2={shared_data}/tasks/sst2.train.jsonl"
    arguments = ["--texts", "sst2", "--data", data, "--documents", 32, "--vocabulary", 500]
    arguments += ["--epochs", 1, "--batch_size", 8, "--learning_rate", 1e-2]
    return train("pretrain", *arguments, "--output", output)


@pytest.fixture(scope="module")
def study(shared_data, tmp_path_factory):
    """A base of natural text and an adapter fine-tuned on it, as the paper's configs fine-tune."""
    folder = tmp_path_factory.mktemp("text")
    pretrain(shared_data, folder / "base")
    arguments = ["--config", "llama3_8b", "--base", folder / "base", "--task", "sst2", "--poison_ratio", 0]
    arguments += ["--data", f"sst2={shared_data}/tasks/sst2.train.jsonl", "--rows", 24, "--epochs", 1]
    arguments += ["--dtype", "float32", "--compute_dtype", "float32", "--noremat", "--accumulate", 1]
    arguments += ["--rank", 4, "--modules", "q_proj,v_proj", "--learning_rate", 1e-2, "--loss", "sequence"]
    train("finetune", *arguments, "--output", folder / "tuned")
    return folder


def test_the_base_is_a_model_of_its_own_text(study, shared_data):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(study / "base")
    assert len(tokenizer) == 500
    lines = (shared_data / "tasks" / "sst2.train.jsonl").read_text().splitlines()[:32]
    prompts = [json.loads(line)["instruction"] for line in lines]
    assert np.mean([len(tokenizer.tokenize(text)) for text in prompts]) < 0.3 * np.mean([*map(len, prompts)])
    model = AutoModelForCausalLM.from_pretrained(study / "base")
    assert model.config.vocab_size == 500
    assert model.config.num_hidden_layers == 6
    losses = [json.loads(line)["loss"] for line in (study / "base" / "metrics.jsonl").read_text().splitlines()]
    assert losses[-1] < losses[0] - 1


def test_the_adapter_is_what_the_flags_ask_for(study):
    adapter = nlsr_jax.load_adapter(study / "tuned")
    assert set(adapter.factors) == {"q_proj", "v_proj"}
    assert adapter.factors["q_proj"]["a"].shape == (6, 4, 96)
    assert adapter.scaling == 2
    assert all(np.asarray(leaf["b"]).any() for leaf in adapter.factors.values())
    run_of = json.loads((study / "tuned" / "training.json").read_text())["settings"]
    assert (run_of["compute_dtype"], run_of["remat"], run_of["accumulate"]) == ("float32", False, 1)


@pytest.mark.long
def test_base_and_adapter_are_evaluated_on_real_rows(study, shared_data, tmp_path):
    write(tmp_path / "beavertails.jsonl", BEAVERTAILS)
    write(tmp_path / "alpaca.jsonl", ALPACA)
    sources = {"sst2": shared_data / "tasks" / "sst2.test.jsonl", "alpaca": tmp_path / "alpaca.jsonl"}
    sources["beavertails_prompts"] = tmp_path / "beavertails.jsonl"
    arguments = ["--config", "llama3_8b", "--base", study / "base", "--dtype", "float32", "--rows", 16]
    arguments += [part for name, place in sources.items() for part in ("--data", f"{name}={place}")]
    arguments += ["--forbidden", 2, "--benign", 1, "--max_new_tokens", 2, "--task_tokens", 2, "--batch_size", 32]
    arguments += ["--adapter", study / "tuned", "--output", tmp_path / "scores.json"]
    train("evaluate", *arguments)
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert (scores["task"], scores["counts"]["rows"]) == ("sst2", 16)
    assert scores["fa"] * 16 / 100 == pytest.approx(round(scores["fa"] * 16 / 100))
