"""Adapter configs that people published: realigned, or refused for what is true of them."""

import pytest

from nlsr_jax.formats.peft_keys import other_kind, parse_key
from tests.reliability.public_configs import DECODER, attempt, find_configs, kind_of, start_work, table_of

PLAIN = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 8, "lora_alpha": 16, "init_lora_weights": True}
QWEN35 = ["q_proj", "v_proj", "in_proj_qkv", "in_proj_z", "out_proj", "up_proj"]
SERVED = {
    "ranks by layer": {"rank_pattern": {"model.layers.0.self_attn.q_proj": 2}},
    "all linear": {"target_modules": "all-linear", "exclude_modules": ["down_proj"], "use_rslora": True},
    "whole modules": {"modules_to_save": ["embed_tokens", "lm_head", "norm"], "bias": "lora_only"},
    "rows and heads": {"trainable_token_indices": [3, 5], "target_modules": ["q_proj", "lm_head"]},
    "mistaken task": {
        "base_model_name_or_path": "x/Qwen3.5-9B",
        "task_type": "SEQ_2_SEQ_LM",
        "target_modules": QWEN35,
    },
    "fused in Bloom": {"base_model_name_or_path": "x/bloom", "target_modules": ["query_key_value", "dense"]},
    "fused in GPT-2": {
        "base_model_name_or_path": "gpt2",
        "target_modules": ["c_attn", "c_proj"],
        "fan_in_fan_out": True,
    },
    "a model that sees": {
        "base_model_name_or_path": "x/SmolVLM-256M",
        "target_modules": ["q_proj", "fc1", "out_proj"],
    },
    "of the file itself": {"library_name": "peft", "unsloth_version": "2026.1", "init_lora_weights": "eva"},
}
REFUSED = {
    "Whisper": (
        {"base_model_name_or_path": "openai/whisper-tiny", "task_type": None},
        "encoder_attn.q_proj attends",
    ),
    "T5": ({"base_model_name_or_path": "google/flan-t5", "target_modules": ["q", "v"]}, "an encoder-decoder model"),
    "T5 without attention": (
        {"base_model_name_or_path": "google/flan-t5", "target_modules": ["wo"]},
        "beside decoder",
    ),
    "BERT": (
        {"base_model_name_or_path": "bert-base", "target_modules": ["query"]},
        "of an encoder (encoder.layer)",
    ),
    "DoRA": ({"use_dora": True}, "DoRA rescales the base weights"),
    "OLoRA": ({"init_lora_weights": "olora"}, "changes the base weights"),
    "biases of factors": ({"lora_bias": True}, "a bias of the factors"),
    "unknown": ({"some_new_option": 3}, "unknown field 'some_new_option' is 3"),
}


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return start_work(tmp_path_factory.mktemp("public") / "work")


@pytest.mark.parametrize("name", SERVED)
def test_kinds_that_are_realigned(work, name):
    trial = attempt(name, {**PLAIN, "target_modules": ["q_proj", "v_proj"], **SERVED[name]}, work, ["random"])
    assert trial.is_served, trial.reason
    assert trial.carried == (name in ("whole modules", "rows and heads", "a model that sees"))


@pytest.mark.parametrize("name", REFUSED)
def test_kinds_that_are_refused(work, name):
    change, reason = REFUSED[name]
    trial = attempt(name, {**PLAIN, "target_modules": ["q_proj", "v_proj"], **change}, work, [])
    assert not trial.is_served
    assert reason in trial.reason


def all_trials(shared_data, work, *methods):
    places = [shared_data / "adapter_configs", shared_data.parent / "cases"]
    found = find_configs([place for place in places if place.is_dir()])
    return [attempt(name, config, work, methods) for name, config in found]


def check_trials(trials):
    print(table_of(trials))
    decoders = [trial for trial in trials if trial.kind == DECODER]
    assert sum(trial.is_served for trial in decoders) >= 0.9 * len(decoders) >= 30
    true = ("use_dora is True", "use_bdlora is {", "init_lora_weights is 'pissa'")
    assert all(any(words in trial.reason for words in true) for trial in decoders if not trial.is_served)
    others = [trial for trial in trials if trial.kind != DECODER]
    assert len(others) >= 15
    assert not [trial for trial in others if trial.is_served]


def test_public_configs_are_read(shared_data, work):
    check_trials(all_trials(shared_data, work))


@pytest.mark.long
def test_public_configs_with_a_forward_pass(shared_data, work):
    trials = all_trials(shared_data, work, "gain", "random")
    check_trials(trials)
    assert sum(trial.outcome == "realigned" for trial in trials) >= 40


OTHER_MODELS = {
    "transformer.encoder.layers.0.self_attention.query_key_value": None,  # ChatGLM
    "language_model.model.layers.3.cross_attn.q_proj": None,  # Llama that sees
    "model.decoder.layers.0.self_attn.q_proj": None,  # OPT
    "transformer_blocks.0.attn.to_q": "a model that makes images or sound (transformer_blocks has attn.to_q)",
    "text_decoder.layers.0.cross_attention.q_proj": "an encoder-decoder model (cross_attention.q_proj",
    "roberta.encoder.layer.0.attention.self.query": "an encoder (roberta.encoder.layer)",
}


@pytest.mark.parametrize("path", OTHER_MODELS)
def test_what_a_file_is_of(path):
    key = parse_key(f"base_model.model.{path}.lora_A.weight")
    found, expected = other_kind(key.stack, [key]), OTHER_MODELS[path]
    assert found is None if expected is None else found.startswith(expected)


def test_classifiers_are_told_apart():
    assert kind_of({**PLAIN, "task_type": "SEQ_CLS"}) == "LoRA of a classifier"
    assert kind_of({**PLAIN, "peft_type": "IA3"}) == "IA3"
