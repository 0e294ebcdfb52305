"""Tensors, masks and digests as they are written, against what is read back."""

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

import nlsr_jax
from nlsr_jax.errors import InputError
from nlsr_jax.files.safetensors_files import DTYPES, SafetensorsWriter, open_checked, write_checked
from nlsr_jax.formats.mask_files import MaskFile
from nlsr_jax.formats.record import Digests
from tests.oracles import random_adapter


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
