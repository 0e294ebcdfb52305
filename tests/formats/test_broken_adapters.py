"""Broken adapters of every kind: one clear line that names the file and what to do."""

import json
import pickle
import shutil

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import nlsr_jax
from nlsr_jax.errors import InputError
from nlsr_jax.files.safetensors_files import open_checked
from tests.adapter_files import LFS, save_family

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def adapter(tmp_path):
    save_family(tmp_path)
    return tmp_path / "finetuned"


def change_config(folder, **changes):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def change_weights(folder, change):
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


def name_of(layer, module, factor):
    parent = "self_attn" if module[0] in "qkvo" else "mlp"
    return f"base_model.model.model.layers.{layer}.{parent}.{module}.lora_{factor}.weight"


Q0 = name_of(0, "q_proj", "A")


def poke(value):
    def change(tensors):
        tensors[Q0] = tensors[Q0].copy()
        tensors[Q0][1, 2] = value

    return change


def rename(old, new):
    def change(tensors):
        tensors[new] = tensors.pop(old)

    return change


def cast(dtype):
    return lambda tensors: tensors.update({Q0: tensors[Q0].astype(dtype)})


def cut_rank_of_layer_1(tensors):
    tensors[name_of(1, "q_proj", "A")] = tensors[name_of(1, "q_proj", "A")][:2].copy()


def narrow_layer_1(tensors):
    tensors[name_of(1, "q_proj", "A")] = tensors[name_of(1, "q_proj", "A")][:, :16].copy()


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda f: (f / WEIGHTS).unlink(), "adapter_model.safetensors is missing"),
        (lambda f: (f / WEIGHTS).write_bytes(b""), "is empty; expected safetensors weights"),
        (lambda f: (f / WEIGHTS).write_bytes(LFS), "a Git-LFS pointer, not safetensors weights"),
        (lambda f: (f / WEIGHTS).write_bytes(b"PK\x03\x04rest"), "a pickle, not safetensors"),
        (lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:-9]), "truncated or damaged"),
        (lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes() + b"x"), "truncated or damaged"),
        (lambda f: (f / WEIGHTS).write_bytes(b"\xff" * 64), "truncated or damaged"),
        (lambda f: (f / WEIGHTS).rename(f / "adapter_model.bin"), "adapter_model.bin, a pickle, which is never"),
        (lambda f: (f / "adapter_config.json").unlink(), "adapter_config.json is missing"),
        (lambda f: (f / "adapter_config.json").write_text("{'r': 8}"), "not JSON (line 1, column 2"),
        (lambda f: (f / "adapter_config.json").write_text("[1]"), "holds list; expected an object"),
        (lambda f: change_config(f, r=8), "has rank 4, the config says 8"),
        (lambda f: change_config(f, target_modules=["q_proj", "v_proj"]), "which the config does not adapt"),
        (lambda f: change_weights(f, poke(np.nan)), "1 entries that are NaN or infinite"),
        (lambda f: change_weights(f, poke(np.inf)), "1 entries that are NaN or infinite"),
        (lambda f: change_weights(f, lambda t: t.pop(Q0)), "lora_A is missing"),
        (lambda f: change_weights(f, rename(Q0, "base_model.model.x")), "'base_model.model.x' is unknown"),
        (lambda f: change_weights(f, rename(Q0, Q0.replace("A.weight", "magnitude_vector"))), "a DoRA magnitude"),
        (lambda f: change_weights(f, rename(Q0, Q0.replace("q_proj", "z_proj"))), "; lora_A is missing"),
        (lambda f: change_weights(f, rename(Q0, Q0.replace("self_attn", "mlp"))), "; lora_A is missing"),
        (
            lambda f: change_weights(f, rename(Q0, Q0.replace("layers.0.", "layers.x."))),
            "; lora_A is missing",
        ),
        (lambda f: change_weights(f, rename(Q0, Q0.replace("A.weight", "A.other.weight"))), "several adapters"),
        (
            lambda f: change_weights(f, cut_rank_of_layer_1),
            "layer 1 q_proj has lora_A of rank 2 and lora_B of rank",
        ),
        (lambda f: change_weights(f, narrow_layer_1), "and of 16 in layer 1; expected one size per module name"),
        (lambda f: change_weights(f, cast(np.float64)), "has type F64"),
        (lambda f: change_weights(f, cast(np.int32)), "has type I32"),
        (shutil.rmtree, "no such folder"),
    ],
)
def test_broken_adapters(adapter, break_it, message):
    break_it(adapter)
    with pytest.raises(InputError) as caught:
        nlsr_jax.load_adapter(adapter)
    assert message in str(caught.value)
    assert adapter.name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
def test_entries_that_are_not_finite_are_found_in_every_type(adapter, kind, bad):
    limits = ml_dtypes.finfo(kind)
    large = [limits.max, limits.min, -limits.tiny, 0]

    def change(entries):
        def poked(tensors):
            for name, value in tensors.items():
                tensors[name] = value.astype(kind)
            tensors[Q0].flat[: len(entries)] = np.array(entries, kind)

        change_weights(adapter, poked)

    change(large)
    nlsr_jax.load_adapter(adapter)
    change([bad, *large, bad])
    with pytest.raises(InputError, match="holds 2 entries that are NaN or infinite"):
        nlsr_jax.load_adapter(adapter)


@pytest.mark.parametrize("size", [0x280, 0x480, 0x580, 0x10480])
def test_a_header_whose_length_begins_as_a_pickle_does_is_read(tmp_path, size):
    value = np.arange(6, dtype=np.float32)
    path = tmp_path / "model.safetensors"
    save_file({"x": value}, path, metadata={"text": ""})
    short = int.from_bytes(path.read_bytes()[:8], "little")
    save_file({"x": value}, path, metadata={"text": "t" * (size - short)})
    assert path.read_bytes()[:8] == size.to_bytes(8, "little")
    np.testing.assert_array_equal(open_checked(path).read("x"), value)


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_pickle_is_told_from_weights(tmp_path, protocol):
    path = tmp_path / "model.safetensors"
    path.write_bytes(pickle.dumps({"x": [1.0] * 9}, protocol))
    with pytest.raises(InputError, match="a pickle, not safetensors"):
        open_checked(path)


def test_the_same_factor_twice(adapter):
    def twice(tensors):
        for name in list(tensors):
            tensors[name.replace(".weight", ".default.weight")] = tensors[name]

    change_weights(adapter, twice)
    with pytest.raises(InputError, match="the same factor of two adapters"):
        nlsr_jax.load_adapter(adapter)


def test_names_with_adapter_name_and_nested_prefixes(adapter):
    expected = nlsr_jax.load_adapter(adapter)

    def renamed(tensors):
        for name in list(tensors):
            new = name.replace("model.model.layers", "model.model.language_model.layers")
            tensors[new.replace(".weight", ".default.weight")] = tensors.pop(name)

    change_weights(adapter, renamed)
    found = nlsr_jax.load_adapter(adapter)
    for module, leaf in expected.factors.items():
        for factor, value in leaf.items():
            np.testing.assert_array_equal(found.factors[module][factor], value)
    layout = nlsr_jax.formats.peft.read_layout(adapter)
    assert layout.prefix == "base_model.model.model.language_model."


def test_mixed_half_types_are_widened_exactly(adapter):
    expected = nlsr_jax.load_adapter(adapter).factors["q_proj"]["a"]

    def halves(tensors):
        tensors[Q0] = tensors[Q0].astype(np.float16)
        tensors[name_of(1, "q_proj", "A")] = tensors[name_of(1, "q_proj", "A")].astype(ml_dtypes.bfloat16)

    change_weights(adapter, halves)
    found = nlsr_jax.load_adapter(adapter).factors["q_proj"]["a"]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found[0], expected[0].astype(np.float16).astype(np.float32))
    np.testing.assert_array_equal(found[1], expected[1].astype(ml_dtypes.bfloat16).astype(np.float32))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_not_finite_half_precision_is_found(adapter, dtype):
    def broken(tensors):
        for name in tensors:
            tensors[name] = tensors[name].astype(dtype)
        tensors[Q0][0, :3] = [np.nan, np.inf, -np.inf]

    change_weights(adapter, broken)
    with pytest.raises(InputError, match="holds 3 entries"):
        nlsr_jax.load_adapter(adapter)


def test_large_finite_values_are_accepted(adapter):
    change_weights(adapter, poke(3e38))
    assert nlsr_jax.load_adapter(adapter).factors["q_proj"]["a"].max() == np.float32(3e38)


def test_adapter_is_checked_against_a_model(adapter):
    from nlsr_jax.architecture.config import parse_model_config

    config = parse_model_config({"model_type": "llama"}, "config.json")
    with pytest.raises(InputError, match="q_proj maps 32 features to 32, the model's maps 4096 to 4096"):
        nlsr_jax.load_adapter(adapter, config)
