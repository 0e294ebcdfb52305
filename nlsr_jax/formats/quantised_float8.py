"""Weights of eight bits with scales: FP8 in blocks, as DeepSeek and Qwen write it, and compressed-tensors.

Source: transformers 5.23, ``integrations/finegrained_fp8.py`` (``Fp8Dequantize``) and ``fbgemm_fp8.py``;
compressed-tensors 0.20, ``compressors/naive_quantized``.
"""

import re
from collections.abc import Mapping

import numpy as np

from nlsr_jax.architecture.quantisation import COMPRESSED, Quantisation
from nlsr_jax.errors import InputError
from nlsr_jax.files.safetensors_files import FLOATS, SafetensorsFile
from nlsr_jax.formats.quantised_codes import dequantise_blocks
from nlsr_jax.formats.quantised_weight import Found, Part, QuantisedWeight

_SCALE = re.compile(r"(.+\.weight)_scale(_inv)?")
_FLOAT8 = ("F8_E4M3", "F8_E5M2")
_UNUSED = re.compile(r".+\.((input|output|activation|k|v|q)_scale(_ub)?|(input|output|k|v)_zero_point)")
"""Scales of activations and of the cache, which are not quantised here."""


class _Scaled(QuantisedWeight):
    """Numbers of eight bits, a scale for every block."""

    def __init__(self, name: str, files: Mapping[str, SafetensorsFile], scale: str, how: Quantisation):
        self._numbers, self._scale = Part(files[name], name), Part(files[scale], scale)
        compressed = how.kind == COMPRESSED
        self._numbers.check((*_FLOAT8, "I8") if compressed else _FLOAT8)
        self._scale.check(FLOATS if compressed else (*FLOATS, "F8_E8M0", "U8"))
        super().__init__(name, self._numbers, self._numbers.shape, self._scale.dtype if compressed else "F32")
        self._grid, self._block = _blocks(self._numbers, self._scale, how)

    def rows(self, first: int, last: int) -> np.ndarray:
        """See ``QuantisedWeight.rows``."""
        numbers = self._numbers.file.read_rows(self._numbers.name, slice(first, last))
        return dequantise_blocks(numbers, self._scales(), self._block, first)

    def _scales(self) -> np.ndarray:
        found = self._scale.read().reshape(self._grid)
        if self._scale.dtype == "U8":  # exponents alone
            return np.exp2(found.astype(np.float32) - np.float32(127))
        return found.astype(self.numpy_dtype(self.name))


def find_scaled(files: Mapping[str, SafetensorsFile], how: Quantisation) -> Found:
    """Find the weights of eight bits that have scales.

    Args:
      files: which file holds each tensor.
      how: as the config says.

    Raises:
      InputError: a weight whose scales do not fit it, or one without scales.
    """
    weights: dict[str, QuantisedWeight] = {}
    described = set[str]()
    for scale, match in [(name, found) for name in files if (found := _SCALE.fullmatch(name))]:
        if match[1] not in files:
            raise InputError(f"{files[scale].path}: {scale} describes a weight that is missing")
        if f"{match[1]}_zero_point" in files:
            raise InputError(
                f"{files[scale].path}: {match[1]}_zero_point: weights of eight bits with zero points are not read; "
                "give the full-precision model"
            )
        weights[match[1]] = _Scaled(match[1], files, scale, how)
        described.add(scale)
    for name in files:
        if files[name].dtype(name) in _FLOAT8 and name not in weights:
            raise InputError(
                f"{files[name].path}: {name} has type {files[name].dtype(name)} and no scales beside it"
            )
    return Found(weights, described | {name for name in files if _UNUSED.fullmatch(name)})


def _blocks(numbers: Part, scale: Part, how: Quantisation) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the shape of the grid of scales and the size of a block, the last of which may be cut.

    As in transformers the grid decides, so that one scale for each row or for all is a block too; where it does not
    divide the weight, the size that the config names must lead to it.
    """
    if len(numbers.shape) != 2:
        raise InputError(f"{numbers.file.path}: {numbers.name} is {list(numbers.shape)}; expected a matrix")
    d, k = numbers.shape
    shape = scale.shape if len(scale.shape) == 2 else (scale.shape[0] if scale.shape else 1, 1)
    if how.block and shape == (-(-d // how.block[0]), -(-k // how.block[1])):
        return shape, how.block
    if len(scale.shape) > 2 or 0 in shape or d % shape[0] or k % shape[1]:
        raise InputError(
            f"{scale.file.path}: {scale.name} is {list(scale.shape)}, which is no grid of blocks of "
            f"{numbers.name} {list(numbers.shape)}"
        )
    return shape, (d // shape[0], k // shape[1])
