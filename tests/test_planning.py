"""The planner against what the programs really hold."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nlsr_jax
from benchmarks.streaming import SHAPE
from nlsr_jax.architecture.config import parse_model_config
from nlsr_jax.architecture.known import KNOWN, known_config
from nlsr_jax.errors import InputError
from nlsr_jax.formats.hugging_face import read_config
from nlsr_jax.models.llama import Llama
from nlsr_jax.planning import Load, logit_bytes, plan, plan_streamed, size_of
from nlsr_jax.training.initial import new_adapter, new_params
from nlsr_jax.training.losses import Rows
from nlsr_jax.training.optimizer import make_optimizer
from nlsr_jax.training.settings import LoraSettings, TrainingSettings
from nlsr_jax.training.step import TrainState, adapter_forward, make_step
from tests.e2e.command import error_line, run

LORA = LoraSettings(rank=4, alpha=8.0)


@pytest.fixture(scope="module")
def config():
    return parse_model_config(
        {
            "model_type": "llama",
            "vocab_size": 300,
            "hidden_size": 64,
            "intermediate_size": 160,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
        },
        "config",
    )


@pytest.fixture(scope="module")
def adapter(config):
    return new_adapter(jax.random.key(0), config, LORA)


def test_parts_are_those_of_the_arrays(config, adapter):
    model = Llama(config)
    params = new_params(jax.random.key(0), model)
    found = plan(config, Load(batch_size=2, length=16, dtype="float32", lora=LORA)).parts
    assert found["weights"] == size_of(params)
    assert found["adapter"] == found["gradient"] == size_of(adapter)
    optimizer = make_optimizer(TrainingSettings(), 2).init(adapter.factors)
    assert found["optimizer"] == size_of(optimizer)
    batch = np.ones((2, 16), np.int32), np.ones((2, 16), bool)
    statistics = nlsr_jax.collect_statistics(model, params, adapter, [batch])
    assert found["statistics"] == 2 * size_of(statistics)
    assert found["gathered weights"] == 0
    assert found["computed again"] > 0


@pytest.mark.parametrize(("rows", "length", "remat"), [(8, 256, True)])
def test_activations_are_those_that_xla_plans(config, adapter, rows, length, remat):
    """XLA's own count for a compiled step holds temporary arrays too: the same order is what a plan can promise."""
    load = Load(batch_size=rows, length=length, dtype="float32", lora=LORA, remat=remat)
    found = plan(config, load).parts
    settings = TrainingSettings("sft", batch_size=rows, max_length=length, remat=remat)
    model = Llama(config, remat=remat)
    optimizer = make_optimizer(settings, 2)
    state = TrainState(jnp.int32(0), adapter.factors, optimizer.init(adapter.factors))
    batch = Rows(
        np.ones((rows, 1, length), np.int32), np.ones((rows, 1, length), bool), np.full((rows, 1), length),
        np.zeros((rows, 1), np.float32), np.ones(rows, bool),
    )  # fmt: skip
    step = make_step(adapter_forward(model, adapter), optimizer, settings)
    params = jax.eval_shape(lambda key: new_params(key, model), jax.random.key(0))
    memory = step.lower(state, params, batch).compile().memory_analysis()
    planned = found["kept activations"] + found["computed again"]
    assert planned / 2 < memory.temp_size_in_bytes < 2 * planned


def test_a_mesh_divides_what_its_rules_say():
    whole = plan(known_config("llama3_70b"), Load(lora=LORA)).parts
    parts = plan(known_config("llama3_70b"), Load(mesh=(2, 4, 8), lora=LORA)).parts
    assert whole["weights"] == 2 * 70_553_706_496
    # Norms, 161 of 8192 numbers, stay whole.
    assert parts["weights"] == (whole["weights"] - 2 * 161 * 8192) // 32 + 2 * 161 * 8192
    assert parts["adapter"] == whole["adapter"]
    assert parts["kept activations"] == whole["kept activations"] // 8
    assert parts["statistics"] == whole["statistics"] // 2 * 65
    assert not [array for array in jax.live_arrays() if array.nbytes > 1e8]


@pytest.mark.parametrize("name", KNOWN)
def test_known_models_have_their_size(name):
    sizes = {
        "llama3_8b": 8_030_261_248,
        "llama3_70b": 70_553_706_496,
        "qwen2_7b": 7_615_616_512,
        "mistral_7b": 7_241_732_096,
        "gemma2_9b": 9_241_705_984,
        "gemma3_1b": 999_885_952,
        "gemma3_4b": 3_880_263_168,
        "phi3_mini": 3_821_079_552,
        "olmo2_7b": 7_298_617_344,
        "qwen3_30b_a3b": 30_532_122_624,
        "mixtral_8x7b": 46_702_792_704,
    }
    model = Llama(known_config(name))
    assert size_of(jax.eval_shape(lambda key: new_params(key, model), jax.random.key(0))) == 4 * sizes[name]


def test_logits_are_those_of_a_part(config):
    vocabulary = known_config("llama3_8b").vocab_size

    assert logit_bytes(known_config("llama3_8b"), 8, 513) == 2 * 512 * vocabulary * 4
    assert logit_bytes(known_config("llama3_8b"), 2, 65) == 2 * 128 * vocabulary * 4
    assert logit_bytes(config, 8, 128) == 0  # few are kept as they are
    found = plan(known_config("llama3_8b"), Load(batch_size=8, length=513, lora=LORA, remat=False, mesh=(2, 1, 1)))
    assert found.parts["logits at once"] == logit_bytes(known_config("llama3_8b"), 4, 513) > 0


@pytest.mark.parametrize("changes", [{"batch_size": 0}, {"length": 0}, {"mesh": (1, 0, 1)}])
def test_sizes_that_are_none_are_named(config, changes):
    with pytest.raises(InputError, match="must be at least 1"):
        plan(config, Load(lora=LORA, **changes))


def test_command_plans_without_weights(tmp_path):
    fields = KNOWN["llama3_8b"]
    (tmp_path / "config.json").write_text(json.dumps(fields))
    printed = run("plan", "--model", tmp_path, "--mesh", "1,4,2", "--memory", "24", "--rank", "64").stdout
    weights = next(line for line in printed.splitlines() if line.startswith("│ weights"))
    assert weights.count("2.01 GB") == 3
    assert "fits in 24 GB" in printed
    assert read_config(tmp_path) == known_config("llama3_8b"), "its name stands for the same"


def test_a_streamed_gradient_takes_what_xla_counts(config):
    """Of one layer, because XLA counts a loop once; of the first layer it leaves out the input's derivative."""
    one = dataclasses.replace(config, num_layers=1, windowed=())
    adapter = new_adapter(jax.random.key(0), one, LORA)
    model, length = Llama(one, remat=True), 32
    params = jax.eval_shape(lambda key: new_params(key, model), jax.random.key(0))
    forward = adapter_forward(model, adapter)

    def loss(factors, params, tokens):
        return jnp.sum(jnp.square(forward(factors, params, tokens)))

    tokens = jax.ShapeDtypeStruct((4, length), jnp.int32)
    compiled = jax.jit(jax.grad(loss)).lower(adapter.factors, params, tokens).compile()
    found = plan_streamed(one, Load(rows=4, length=length, batch_size=4, dtype="float32", lora=LORA))
    assert 1 < found.operations / compiled.cost_analysis()["flops"] < 1.5


def test_a_streamed_base_of_a_billion_takes_what_was_measured():
    """Peak memory and processor time of ``benchmarks.streaming``, as docs/benchmarks.md gives them."""
    config = parse_model_config(SHAPE, "shape")
    load = Load(batch_size=4, length=64, lora=LoraSettings(rank=8, alpha=16.0), rows=8)
    found = plan_streamed(config, load)
    assert 1 < found.peak / 8.73e8 < 1.25
    assert found.disk == 0
    assert plan_streamed(config, load, kept=10**6).disk == 23 * 8 * 64 * 2048 * 2


def test_command_plans_a_streamed_base():
    flags = (
        "--model",
        "llama3_70b",
        "--stream",
        "--rank",
        "16",
        "--rows",
        "400",
        "--memory",
        "32",
        "--tflops",
        "1",
    )
    printed = run("plan", *flags).stdout
    assert "peak memory: 12.34 GB" in printed
    assert "disk: 271.79 GB of layer inputs" in printed
    assert "time: about 24.3 h" in printed


def test_unknown_model_is_named():
    assert "--model is 'llama9'; expected a Hugging Face directory or one of llama3_8b" in error_line(
        run("plan", "--model", "llama9", check=False)
    )
