"""A base that is read layer by layer gives the bits of one in memory, of every family and every measure."""

import dataclasses
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nlsr_jax.adapter import Adapter
from nlsr_jax.architecture.config import parse_model_config
from nlsr_jax.calibration.activations import Activations
from nlsr_jax.calibration.capture import collect_gradients, collect_statistics
from nlsr_jax.calibration.loss import collect_loss, collect_loss_gradient
from nlsr_jax.calibration.openings import collect_divergence, collect_openings, find_openings
from nlsr_jax.calibration.weight_gradient import collect_weight_gradient, stream_weight_gradient
from nlsr_jax.errors import InputError
from nlsr_jax.files.memory import available_bytes
from nlsr_jax.models.llama import Llama
from nlsr_jax.models.load import load_model, save_model, stream_model

SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 4,
    "vocab_size": 64,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 64,
    "head_dim": 8,
}
FAMILIES = {
    "llama": {"hidden_act": "silu"},
    "qwen2": {"hidden_act": "silu", "tie_word_embeddings": True},
    "gemma2": {"hidden_activation": "gelu_pytorch_tanh", "sliding_window": 6, "query_pre_attn_scalar": 8},
    "gemma3_text": {"hidden_activation": "gelu_pytorch_tanh", "sliding_window": 6, "sliding_window_pattern": 2},
    "phi3": {"hidden_act": "silu", "tie_word_embeddings": False},
    "mixtral": {"hidden_act": "silu", "num_local_experts": 4, "num_experts_per_tok": 2},
}
LENGTH = 20


def make(folder, family, dtype="float32", **changes):
    """Save a random base; returns its folder and config."""
    config = parse_model_config({**SHAPE, "model_type": family, **FAMILIES[family], **changes}, family)
    model = Llama(config)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"]
    draw = np.random.default_rng(0)
    leaves = jax.tree.map(lambda s: jnp.asarray(0.3 * draw.standard_normal(s.shape, np.float32), dtype), shapes)
    save_model(model, leaves, folder)
    return folder, config


def make_adapter(config, layers=None):
    draw = np.random.default_rng(1)
    count = config.num_layers if layers is None else len(layers)
    factors = {
        module: {"a": draw.standard_normal((count, 3, k)) / 8, "b": draw.standard_normal((count, d, 3)) / 8}
        for module, (k, d) in config.projections().items()
    }
    factors = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), factors)
    return Adapter(factors, 1.7, None if layers is None else dict.fromkeys(factors, layers))


def make_batches(count=2):
    draw = np.random.default_rng(2)
    found = []
    for number in range(count):
        mask = np.zeros((3, LENGTH), bool)
        mask[:, LENGTH // 2 : LENGTH - number] = True
        mask[0] = number == 1  # a row without a response
        found.append((draw.integers(0, SHAPE["vocab_size"], (3, LENGTH)).astype(np.int32), mask))
    return found


def assert_same_bits(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


MEASURES = {
    ("llama", "float32"): ("statistics", "snip"),
    ("llama", "bfloat16"): ("loss",),
    ("qwen2", "float32"): ("openings",),
    ("gemma2", "float32"): ("gain",),
    ("gemma3_text", "float32"): ("divergence",),
    ("phi3", "float32"): ("preference",),
    ("mixtral", "float32"): ("gain",),
}
"""Every measure on one family, and on every family one that goes forwards or backwards through all that it has."""


def measures(names, model, params, adapter, batches):
    """Some of the measures that a run takes of a base."""
    pairs = [(*one, *other) for one, other in zip(batches, batches[::-1], strict=True)]
    openings = find_openings(model, batches, depth=2)
    every = {
        "gain": lambda: collect_loss_gradient(model, params, adapter, batches),
        "statistics": lambda: collect_statistics(model, params, adapter, batches),
        "openings": lambda: collect_openings(model, params, adapter, batches, openings),
        "divergence": lambda: collect_divergence(model, params, None, adapter, batches),
        "loss": lambda: collect_loss(model, params, None, batches),
        "snip": lambda: collect_gradients(model, params, adapter, batches),
        "preference": lambda: collect_gradients(model, params, adapter, pairs, objective="preference_snip"),
    }
    return {name: every[name]() for name in names}


@pytest.mark.parametrize(("family", "dtype"), MEASURES)
def test_every_measure_has_the_bits_of_a_base_in_memory(family, dtype, tmp_path):
    folder, config = make(tmp_path / "base", family, dtype)
    model, params = load_model(folder, dtype)
    own, streamed = stream_model(folder, dtype)
    assert own == model
    adapter, batches = make_adapter(config), make_batches()
    spilled = dataclasses.replace(streamed, kept=0, scratch=tmp_path)
    names = MEASURES[family, dtype]
    found, expected = (measures(names, *base, adapter, batches) for base in ((own, spilled), (model, params)))
    assert_same_bits(found, expected)
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


@pytest.mark.parametrize("family", ["mixtral"])
def test_weight_gradients_have_the_bits_too(family, tmp_path):
    folder, config = make(tmp_path / "base", family)
    batches = make_batches()
    expected = collect_weight_gradient(*load_model(folder), batches)
    found = list(stream_weight_gradient(*stream_model(folder), batches))
    assert [layer for _, layer, _ in found] == sorted((layer for _, layer, _ in found), reverse=True)
    assert len(found) == len(expected) * config.num_layers
    for module, layer, gradient in found:
        np.testing.assert_array_equal(gradient, expected[module][layer])


def test_gradients_of_single_rows_differ_by_rounding_in_narrow_types(tmp_path):
    folder, config = make(tmp_path / "base", "llama", "bfloat16")
    adapter, batches = make_adapter(config), make_batches()
    expected = collect_gradients(*load_model(folder, "bfloat16"), adapter, batches)
    found = collect_gradients(*stream_model(folder, "bfloat16"), adapter, batches)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=2**-8, atol=2**-8 * float(jnp.max(other)))


def test_an_adapter_of_some_layers(tmp_path):
    folder, config = make(tmp_path / "base", "llama")
    adapter, batches = make_adapter(config, layers=(1, 3)), make_batches()
    for collect in (collect_loss_gradient,):
        expected = collect(*load_model(folder), adapter, batches)
        assert_same_bits(collect(*stream_model(folder), adapter, batches), expected)


def test_no_batches_give_zeros(tmp_path):
    folder, config = make(tmp_path / "base", "llama")
    for collect in (collect_loss_gradient, collect_statistics, collect_gradients):  # nothing is compiled
        expected = collect(*load_model(folder), make_adapter(config), [])
        assert_same_bits(collect(*stream_model(folder), make_adapter(config), []), expected)


def test_layers_are_read_once_each_way_however_many_batches(tmp_path, monkeypatch):
    folder, config = make(tmp_path / "base", "llama")
    model, streamed = stream_model(folder)
    read, held = [], []
    original = type(streamed.files).read_layer

    def counted(files, layer):
        read.append(layer)
        held.append(layer)
        return original(files, layer)

    monkeypatch.setattr(type(streamed.files), "read_layer", counted)
    collect_loss_gradient(model, streamed, make_adapter(config), make_batches(5))
    assert read == [0, 1, 2, 3, 3, 2, 1, 0]


def test_one_program_serves_all_layers(tmp_path):
    from tests.compilations import compilations

    folder, config = make(tmp_path / "base", "gemma2")
    model, streamed = stream_model(folder)
    adapter, batches = make_adapter(config), make_batches(1)
    collect_loss_gradient(model, streamed, adapter, batches)
    with compilations() as found:
        collect_loss_gradient(model, streamed, adapter, batches)
    assert not found


class TestActivations:
    @pytest.mark.parametrize("limit", [0, None])
    def test_what_is_put_last_comes_back(self, limit, tmp_path):
        draw = np.random.default_rng(0)
        first, second = draw.normal(size=(2, 3, 4)).astype(np.float32)
        with Activations(2 * first.nbytes, tmp_path, limit) as store:
            assert store.spilled == (limit == 0)
            store.put(0, first)
            store.put(1, first)
            store.put(0, second)
            np.testing.assert_array_equal(store.get(0), second)
            np.testing.assert_array_equal(store.get(1), first)
            assert list(tmp_path.iterdir()) == []

    def test_a_killed_process_leaves_no_file(self, tmp_path):
        code = (
            "import os, pathlib, signal, sys, numpy as np; "
            "from nlsr_jax.calibration.activations import Activations; "
            "store = Activations(1, pathlib.Path(sys.argv[1]), 0); store.put(0, np.ones(1000)); "
            "assert store.spilled; os.kill(os.getpid(), signal.SIGKILL)"
        )
        ended = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
        assert ended.returncode == -signal.SIGKILL
        assert list(tmp_path.iterdir()) == []

    def test_a_folder_that_takes_none_is_said_in_one_line(self, tmp_path):
        with pytest.raises(InputError, match="activations of a streamed pass do not fit there"):
            Activations(1, tmp_path / "none", 0)


@pytest.mark.parametrize(
    ("line", "names"),
    [("0::/own/job", ("memory.max", "memory.current")),
     ("4:memory:/own/job", ("memory.limit_in_bytes", "memory.usage_in_bytes"))],
)  # fmt: skip
def test_the_tightest_group_says_what_is_left(line, names, tmp_path):
    root = tmp_path / "groups" / ("memory" if "memory" in line else "")
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "cgroup").write_text(f"9:cpu:/else\n{line}\n")
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable: 8000 kB\n")
    for folder, limit in ((root / "own", "900000"), (root / "own" / "job", "max")):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / names[0]).write_text(f"{limit}\n")
        (folder / names[1]).write_text("300000\n")
    assert available_bytes(tmp_path, tmp_path / "groups") == 600000
    assert available_bytes(tmp_path / "none", tmp_path / "groups") is None
