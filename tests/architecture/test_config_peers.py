"""Every field of a parsed config against transformers' own reading of the same JSON."""

import copy
import json

import numpy as np
import pytest
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from nlsr_jax.architecture.config import ModelConfig, parse_model_config
from nlsr_jax.architecture.rope import inverse_frequencies
from nlsr_jax.errors import InputError

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LENGTH = "original_max_position_embeddings"
SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "num_key_value_heads": 2,
}
FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
ACCEPTED = {
    "plain": {},
    "old_spelling": {"architectures": ["LLaMAForCausalLM"]},
    "kv_heads_null": {"num_key_value_heads": None},
    "head_dim": {"head_dim": 16},
    "wide_eps": {"rms_norm_eps": 1e-3},
    "theta": {"rope_theta": 500000},
    "tied": {"tie_word_embeddings": True},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "window": {"sliding_window": 7},
    "window_null": {"sliding_window": None},
    "window_in_use": {"sliding_window": 7, "use_sliding_window": True, "max_window_layers": 2},
    "window_by_default": {"use_sliding_window": True, "max_window_layers": 0},
    "window_unused": {"sliding_window": 7, "use_sliding_window": True},
    "layer_types": {
        "sliding_window": 7,
        "use_sliding_window": True,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
    },
    "linear": {"rope_scaling": {"type": "linear", "factor": 4.0}},
    "default_kind": {"rope_scaling": {"rope_type": "default", "factor": 4.0}},
    "no_kind": {"rope_scaling": {"factor": 4.0}, "rope_theta": 777.0},
    "llama3": {"rope_scaling": {**LLAMA3, LENGTH: 64}, "rope_theta": 500000.0},
    "llama3_two_kinds": {"rope_scaling": {**LLAMA3, "type": "dynamic", LENGTH: 64}},
    "llama3_length_beside": {"rope_scaling": {**LLAMA3, LENGTH: 64}, LENGTH: 32},
    "llama3_length_absent": {"rope_scaling": LLAMA3},
    "version5": {"rope_parameters": {**LLAMA3, "rope_theta": 3e5, LENGTH: 64}, "dtype": "bfloat16"},
    "version5_default": {"rope_parameters": {"rope_type": "default", "rope_theta": 2e4}},
    "both_versions": {"rope_parameters": {"rope_type": "default"}, "rope_scaling": {"type": "linear", "factor": 2}},
    "both_thetas": {"rope_parameters": {"rope_type": "default", "rope_theta": 5.0}, "rope_theta": 9.0},
    "inert": {"max_sequence_length": 9, "attention_mod": 1, "pad_token_id": -1, "pretraining_tp": 2, "norm": "x"},
    "dropout": {"attention_dropout": 0.5},
}
# The old spelling is llama's alone; transformers 5 refuses a null that version 4 took for mistral.
NOT_BOTH = {("old_spelling", f) for f in FAMILIES if f != "llama"} | {("kv_heads_null", "mistral")}
PAIRS = [(change, family) for change in ACCEPTED for family in FAMILIES if (change, family) not in NOT_BOTH]
REFUSED = {
    "model_type is ['llama']": {"model_type": ["llama"]},
    "architecture 7": {"architectures": 7},
    "num_hidden_layers is 2000000000": {"num_hidden_layers": 2_000_000_000},
    "num_key_value_heads is 2.0": {"num_key_value_heads": 2.0},
    "head_dim is 0": {"head_dim": 0},
    "head_dim is None": {"head_dim": None, "model_type": "qwen3"},
    "hidden_size 30": {"hidden_size": 30, "head_dim": 8},
    "rope_theta is None": {"rope_theta": None},
    "tie_word_embeddings is 1.0": {"tie_word_embeddings": 1.0},
    "rope type 'longrope'": {"rope_parameters": {"rope_type": "longrope"}},
    "rope type None": {"rope_scaling": {"rope_type": None, "factor": 2.0}},
    "rope_scaling low_freq_factor": {"rope_scaling": {**LLAMA3, "low_freq_factor": 4.0}},
    "original_max_position_embeddings is 64.5": {"rope_scaling": {**LLAMA3, LENGTH: 64.5}},
    "rope_parameters differ": {"rope_parameters": {"full_attention": {"rope_type": "default"}}},
    "partial_rotary_factor is 0": {"partial_rotary_factor": 0},
    "partial_rotary_factor is 0.25": {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.25}},
    "sliding_window is 0": {"model_type": "mistral", "sliding_window": 0},
    "use_sliding_window is 'no'": {"model_type": "qwen2", "use_sliding_window": "no"},
    "max_window_layers is None": {"model_type": "qwen2", "use_sliding_window": True, "max_window_layers": None},
    "layer_types is ['chunked": {"model_type": "qwen3", "layer_types": ["chunked_attention"] * 4},
    "layer_types is ['full": {"model_type": "qwen2", "layer_types": ["full_attention"]},
    "is_causal is False": {"is_causal": False},
    "vision_config is": {"vision_config": {"hidden_size": 4}},
    "pruned_heads is": {"pruned_heads": {"0": [1]}},
}


def assert_same_as_transformers(ours: ModelConfig, config: dict) -> None:
    """Compare every field with what transformers makes of the same JSON."""
    theirs = CONFIG_MAPPING[config["model_type"]].from_dict(copy.deepcopy(config))
    family = theirs.model_type
    bias = family in ("llama", "qwen3") and theirs.attention_bias
    if family in ("llama", "mistral"):
        windowed = [family == "mistral" and theirs.sliding_window is not None] * theirs.num_hidden_layers
    else:
        windowed = [kind == "sliding_attention" for kind in theirs.layer_types]
    expected = {
        "family": family,
        "vocab_size": theirs.vocab_size,
        "hidden_size": theirs.hidden_size,
        "intermediate_size": theirs.intermediate_size,
        "num_layers": theirs.num_hidden_layers,
        "num_heads": theirs.num_attention_heads,
        "num_kv_heads": theirs.num_key_value_heads,
        "head_dim": getattr(theirs, "head_dim", theirs.hidden_size // theirs.num_attention_heads),
        "eps": theirs.rms_norm_eps,
        "tied": theirs.tie_word_embeddings,
        "qkv_bias": bias or family == "qwen2",
        "out_bias": bias,
        "mlp_bias": family == "llama" and theirs.mlp_bias,
        "qk_norm": family == "qwen3",
        "window": theirs.sliding_window if any(windowed) else None,
        "windowed": tuple(windowed) if any(windowed) else (),
    }
    assert {name: getattr(ours, name) for name in expected} == expected
    # The frequencies say that theta, the kind of scaling and its numbers agree; torch takes the powers in float32.
    frequencies = LlamaRotaryEmbedding(theirs).inv_freq.numpy()
    np.testing.assert_allclose(inverse_frequencies(ours.rope, ours.head_dim), frequencies, rtol=2e-6)


@pytest.mark.parametrize(("change", "family"), PAIRS)
def test_every_field_is_as_transformers_reads_it(change, family):
    config = {"model_type": family, **SMALL, **ACCEPTED[change]}
    assert_same_as_transformers(parse_model_config(config, "config.json"), config)


def test_every_field_of_real_configs(shared_data):
    folder = shared_data / "model_configs"
    checked = 0
    for entry in json.loads((folder / "index.json").read_text()):
        config = json.loads((folder / entry["file"]).read_text())
        if config["model_type"] in FAMILIES:
            assert_same_as_transformers(parse_model_config(config, entry["file"]), config)
            checked += 1
    assert checked


@pytest.mark.parametrize("reason", list(REFUSED))
def test_what_transformers_would_act_on_is_refused_by_name(reason):
    with pytest.raises(InputError) as error:
        parse_model_config({"model_type": "llama", **SMALL, **REFUSED[reason]}, "here/config.json")
    message = str(error.value)
    assert message.startswith("here/config.json: ")
    assert reason in message
    assert "\n" not in message
