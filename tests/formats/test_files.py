"""Broken files of every kind: one clear line that names the file and what to do."""

import json
import pickle
import shutil

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import nlsr_jax
from nlsr_jax.errors import InputError
from nlsr_jax.files.json_files import read_json_object
from nlsr_jax.files.safetensors_files import DTYPES, SafetensorsWriter, open_checked, write_checked
from nlsr_jax.formats.mask_files import MaskFile
from nlsr_jax.formats.record import Digests
from tests.adapter_files import save_family
from tests.oracles import random_adapter
from tests.parity.peers import save_peer

WEIGHTS = "adapter_model.safetensors"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 10\n"


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


@pytest.fixture
def base(tmp_path):
    save_peer("llama2", tmp_path / "base", max_shard_size="30KB")
    return tmp_path / "base"


def edit_index(folder, change):
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    change(index["weight_map"])
    path.write_text(json.dumps(index))


def edit_shard(folder, change):
    path = sorted(folder.glob("*.safetensors"))[0]
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def drop_norm(folder):
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    name = index["weight_map"]["model.norm.weight"]
    tensors = load_file(folder / name)
    del tensors["model.norm.weight"]
    save_file(tensors, folder / name)
    edit_index(folder, lambda m: m.pop("model.norm.weight"))


def first_shard(folder):
    return sorted(folder.glob("*.safetensors"))[0]


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda f: first_shard(f).unlink(), "no such file; expected safetensors"),
        (lambda f: first_shard(f).write_bytes(LFS), "a Git-LFS pointer"),
        (lambda f: first_shard(f).write_bytes(first_shard(f).read_bytes()[:100]), "truncated or damaged"),
        (drop_norm, "weight model.norm.weight is missing (1 of"),
        (lambda f: edit_index(f, lambda m: m.update({"x": "../secret.safetensors"})), "of this folder"),
        (lambda f: edit_index(f, lambda m: m.update({"x": "/etc/passwd"})), "of this folder"),
        (
            lambda f: edit_shard(f, lambda t: t.update({n: v.astype(np.int8) for n, v in t.items()})),
            "has type I8; expected floats",
        ),
        (
            lambda f: edit_shard(f, lambda t: t.update({n: v[..., :3].copy() for n, v in t.items()})),
            "the config says",
        ),
        (lambda f: (f / "config.json").unlink(), "no such file; expected the model config"),
        (lambda f: (f / "config.json").write_text("{"), "not JSON"),
    ],
)
def test_broken_bases(base, break_it, message):
    break_it(base)
    with pytest.raises(InputError) as caught:
        nlsr_jax.load_model(base)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bases_with_left_over_or_pickled_weights(tmp_path):
    save_peer("llama2", tmp_path / "one")
    path = tmp_path / "one" / "model.safetensors"
    tensors = load_file(path)
    save_file({**tensors, "model.layers.0.self_attn.rotary_emb.inv_freq": np.zeros(4, np.float32)}, path)
    nlsr_jax.load_model(tmp_path / "one")
    save_file({**tensors, "model.layers.0.moe.weight": np.zeros(4, np.float32)}, path)
    with pytest.raises(InputError, match=r"unexpected weight model\.layers\.0\.moe\.weight"):
        nlsr_jax.load_model(tmp_path / "one")
    path.rename(tmp_path / "one" / "pytorch_model.bin")
    with pytest.raises(InputError, match="pickles, which are never opened"):
        nlsr_jax.load_model(tmp_path / "one")


def test_names_of_a_bare_model_are_accepted(tmp_path):
    save_peer("llama2", tmp_path / "one")
    _, params = nlsr_jax.load_model(tmp_path / "one")
    path = tmp_path / "one" / "model.safetensors"
    save_file({name.removeprefix("model."): value for name, value in load_file(path).items()}, path)
    _, again = nlsr_jax.load_model(tmp_path / "one")
    np.testing.assert_array_equal(again["layers"]["q_proj"]["kernel"], params["layers"]["q_proj"]["kernel"])


def test_unknown_hub_ids_and_missing_folders(tmp_path):
    with pytest.raises(InputError, match="the hub cannot give it"):
        nlsr_jax.load_model("nobody/no-such-model")
    with pytest.raises(InputError, match=r"no such folder"):
        nlsr_jax.load_model(tmp_path / "absent")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"  \n", "is empty"),
        (LFS, "Git-LFS pointer"),
        (b"{", "not JSON (line 1, column 2"),
        (b"\xff\xfe{", "not UTF-8"),
        (b"3", "holds int"),
        (b'{"a": NaN}', "holds NaN"),
        (b'{"a": 1e999999, "b": Infinity}', "holds Infinity"),
        (b'{"a": 1, "a": 2}', "the key 'a' twice"),
        (b"[" * 5000, "deeper than 100"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not usable JSON"),
    ],
)
def test_broken_json(tmp_path, content, message):
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_json_object(path, "thing")
    assert message in str(caught.value)


def test_json_with_byte_order_mark_brackets_in_text_and_limits(tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps({"a": "[" * 500}).encode())
    assert read_json_object(path, "thing") == {"a": "[" * 500}
    with pytest.raises(InputError, match="expected at most 10"):
        read_json_object(path, "thing", max_bytes=10)
    with pytest.raises(InputError, match="is a folder"):
        read_json_object(tmp_path, "thing")


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16, np.bool_, np.float64, np.int64])
def test_tensors_come_back_bit_for_bit(tmp_path, dtype):
    rng = np.random.default_rng(0)
    tensors = {"b": rng.normal(size=(5, 3)).astype(dtype), "a": rng.normal(size=(7, 2, 2)).astype(dtype)}
    write_checked(tensors, tmp_path / "x.safetensors", {"k": "v"})
    file = open_checked(tmp_path / "x.safetensors")
    assert file.names() == ("a", "b")
    assert file.metadata == {"k": "v"}
    for name, value in tensors.items():
        assert file.shape(name) == value.shape
        found = file.read(name)
        assert found.dtype == value.dtype
        assert found.tobytes() == value.tobytes()
        assert found.ctypes.data % 64 == 0
    assert file.read_rows("a", slice(2, 5)).tobytes() == tensors["a"][2:5].tobytes()


def test_a_file_in_pieces_is_the_librarys(tmp_path):
    rng = np.random.default_rng(0)
    types = list(DTYPES.values())
    tensors = {
        f"t{i % 3}é{i}": np.abs(rng.normal(size=(2, i % 10 + 1))).astype(types[i % len(types)])
        for i in range(38, -1, -1)
    }
    write_checked(tensors, tmp_path / "whole", {"format": "pt"})
    described = {name: (value.dtype, value.shape) for name, value in tensors.items()}
    with SafetensorsWriter(tmp_path / "pieces", described, {"format": "pt"}) as writer:
        for name in reversed(tensors):
            writer.write(name, tensors[name])
    assert (tmp_path / "pieces").read_bytes() == (tmp_path / "whole").read_bytes()
    for length in range(8):  # headers of every length before they are filled up
        write_checked({"x": np.zeros(3, np.float32)}, tmp_path / "whole", {"format": "p" * length})
        with SafetensorsWriter(
            tmp_path / "pieces", {"x": (np.dtype(np.float32), (3,))}, {"format": "p" * length}
        ) as writer:
            writer.write("x", np.zeros(3, np.float32))
        assert (tmp_path / "pieces").read_bytes() == (tmp_path / "whole").read_bytes()


@pytest.mark.parametrize("value", [np.zeros((2, 3), np.float64), np.zeros((3, 2), np.float32)])
def test_a_piece_of_another_kind_is_not_written(tmp_path, value):
    described = {"x": (np.dtype(np.float32), (2, 3))}
    with SafetensorsWriter(tmp_path / "x", described) as writer, pytest.raises(ValueError, match="float32"):
        writer.write("x", value)


def test_masks_come_back(tmp_path):
    rng = np.random.default_rng(0)
    masks = {"q_proj": {"a": rng.random((2, 3, 5)) < 0.5, "b": rng.random((2, 4, 3)) < 0.5}}
    layers = {"q_proj": (1, 3)}
    nlsr_jax.save_masks(masks, tmp_path / "masks.safetensors", layers=layers, metadata={"method": "x"})
    assert MaskFile(tmp_path).metadata == {"method": "x", "layers": {"q_proj": [1, 3]}}
    again = nlsr_jax.load_masks(tmp_path)
    for factor, mask in masks["q_proj"].items():
        np.testing.assert_array_equal(again["q_proj"][factor], mask)
    save_file({"q_proj.a": np.zeros((2, 3, 5), np.float32)}, tmp_path / "masks.safetensors")
    with pytest.raises(InputError, match="expected 3-d BOOL"):
        nlsr_jax.load_masks(tmp_path)
    save_file({"z": np.zeros(1, bool)}, tmp_path / "masks.safetensors")
    with pytest.raises(InputError, match="unexpected tensor 'z'"):
        nlsr_jax.load_masks(tmp_path)


def test_layers_of_two_digits_come_behind_those_of_one(tmp_path):
    adapter = random_adapter(0, layers=12, rank=1, sizes={"q_proj": (2, 3)})
    nlsr_jax.save_adapter(adapter, tmp_path / "adapter")
    again = nlsr_jax.load_adapter(tmp_path / "adapter")
    for factor, values in adapter.factors["q_proj"].items():
        np.testing.assert_array_equal(again.factors["q_proj"][factor], values)


def test_digests_stand_in_the_order_of_their_names(tmp_path):
    files = [tmp_path / name for name in ("b", "a", "c")]
    for file in files:
        file.write_bytes(b"")
    digests = Digests()
    digests.add("base", tmp_path, files)
    assert list(digests.of("base")) == ["a", "b", "c"]
    digests.close()
