"""Model configs: what transformers computes from the same file, or a refusal that names the field."""

import json

import pytest

from nlsr_jax.architecture.config import parse_model_config
from nlsr_jax.errors import InputError
from tests.parity.peers import COMMON

GOOD = {**COMMON, "model_type": "llama", "architectures": ["LlamaForCausalLM"]}


def assert_as_transformers(config, ours):
    import transformers

    theirs = transformers.CONFIG_MAPPING[config["model_type"]](
        **{name: value for name, value in config.items() if name != "model_type"}
    )
    heads = theirs.num_attention_heads
    assert (ours.vocab_size, ours.hidden_size) == (theirs.vocab_size, theirs.hidden_size)
    assert (ours.num_layers, ours.intermediate_size) == (theirs.num_hidden_layers, theirs.intermediate_size)
    assert (ours.num_heads, ours.num_kv_heads) == (heads, theirs.num_key_value_heads)
    assert ours.head_dim == (getattr(theirs, "head_dim", None) or theirs.hidden_size // heads)
    assert (ours.eps, ours.tied) == (theirs.rms_norm_eps, theirs.tie_word_embeddings)
    rope = theirs.rope_parameters
    assert (ours.rope.theta, ours.rope.kind) == (rope["rope_theta"], rope["rope_type"])
    if ours.rope.kind != "default":
        assert ours.rope.factor == rope["factor"]
    if ours.family != "llama":
        window = theirs.sliding_window
        kinds = getattr(theirs, "layer_types", None) or ["sliding_attention" if window else ""] * ours.num_layers
        windowed = [kind == "sliding_attention" for kind in kinds]
        assert list(ours.windowed or [False] * ours.num_layers) == windowed
        if any(windowed):
            assert ours.window == window


def test_every_real_config(shared_data):
    supported = 0
    for path in sorted((shared_data / "model_configs").glob("*.json")):
        if path.name == "index.json":
            continue
        config = json.loads(path.read_text())
        try:
            ours = parse_model_config(config, path.name)
        except InputError as error:
            assert config["model_type"] not in ("llama", "mistral", "qwen2", "qwen3"), f"{path.name}: {error}"
            assert "model_type" in str(error)
            continue
        supported += 1
        assert_as_transformers(config, ours)
    assert supported == 17


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_defaults_are_those_of_transformers(family):
    config = {"model_type": family}
    assert_as_transformers(config, parse_model_config(config, "config.json"))


@pytest.mark.parametrize(
    "change",
    [
        {"rope_parameters": {"rope_type": "default", "rope_theta": 77.0}},
        {"rope_theta": 77.0, "rope_scaling": {"type": "linear", "factor": 2.0}},
        {"model_type": "qwen2", "architectures": None, "use_sliding_window": True, "max_window_layers": 2},
        {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "sliding_window": 8, "head_dim": 6},
        {"model_type": "mistral", "architectures": None, "sliding_window": None, "head_dim": None},
        {"num_key_value_heads": None, "pad_token_id": -1, "max_sequence_length": 3, "unheard_of": 1},
    ],
)
def test_variants_read_as_transformers_reads_them(change):
    config = {**GOOD, **change}
    assert_as_transformers(config, parse_model_config(config, "config.json"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt2"}, "model_type is 'gpt2'"),
        ({"model_type": None}, "model_type is None"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "LlamaForSequenceClassification"),
        ({"auto_map": {"AutoModel": "x.Y"}}, "auto_map"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"num_local_experts": 8}, "num_local_experts is 8: mixtures"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4}}, "rope type 'yarn'"),
        ({"rope_scaling": {"type": "dynamic", "factor": 4}}, "rope type 'dynamic'"),
        ({"rope_scaling": {"rope_type": "llama3"}}, "rope_scaling factor is None"),
        ({"rope_scaling": [1]}, "rope_scaling is [1]"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"hidden_size": "32"}, "hidden_size is '32'"),
        ({"num_hidden_layers": True}, "num_hidden_layers is True"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0"),
        ({"num_key_value_heads": 3}, "no multiple of num_key_value_heads 3"),
        ({"hidden_size": 30}, "no multiple of num_attention_heads"),
        ({"head_dim": 7}, "head_dim is 7"),
        ({"rms_norm_eps": -1}, "rms_norm_eps is -1"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings is 'yes'"),
        ({"model_type": "qwen2", "architectures": None, "layer_types": ["sliding_attention"] * 3}, "layer_types"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(change, message):
    with pytest.raises(InputError) as caught:
        parse_model_config({**GOOD, **change}, "config.json")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


SIZES = {
    "llama3_8b": 8_030_261_248,
    "gemma2_9b": 9_241_705_984,
    "gemma3_1b": 999_885_952,
    "phi3_mini": 3_821_079_552,
    "olmo2_7b": 7_298_617_344,
    "qwen3_30b_a3b": 30_532_122_624,
    "mixtral_8x7b": 46_702_792_704,
}
"""As their publishers' files hold."""


@pytest.mark.parametrize("name", list(SIZES))
def test_full_size_models_have_the_right_number_of_parameters(name):
    import math

    import jax
    import jax.numpy as jnp

    from nlsr_jax.architecture.known import known_config
    from nlsr_jax.architecture.weights import weight_table
    from nlsr_jax.models import Llama

    config = known_config(name)
    shapes = jax.eval_shape(lambda: Llama(config).init(jax.random.key(0), jnp.zeros((1, 8), jnp.int32)))["params"]
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) == SIZES[name]
    table = {weight.path: weight.shape for weight in weight_table(config)}
    found = {tuple(k.key for k in path): leaf.shape for path, leaf in jax.tree.leaves_with_path(shapes)}
    assert found == table
    assert all(len(weight.names) == math.prod(weight.shape[: weight.axes]) for weight in weight_table(config))
