"""Weights of GPTQ and AWQ: numbers of a few bits in words, a scale and a zero point for each group of in-features.

Source: GPTQModel 7.7, ``nn_modules/qlinear/__init__.py`` (``dequantize_weight``) and
``quantization/awq/utils/packing_utils.py`` (``dequantize_gemm``), whose arithmetic is that of the scales' type.
"""

from collections.abc import Mapping

import numpy as np

from nlsr_jax.architecture.quantisation import AWQ, Quantisation
from nlsr_jax.errors import InputError
from nlsr_jax.files.safetensors_files import FLOATS, SafetensorsFile
from nlsr_jax.formats.quantised_codes import AWQ_ORDER, dequantise_groups, unpack_words
from nlsr_jax.formats.quantised_weight import Found, Part, QuantisedWeight

_PARTS = ("qweight", "qzeros", "scales", "g_idx")


class _Packed(QuantisedWeight):
    """A weight ``[d, k]`` that is stored as ``[k, d]``, packed along k by GPTQ and along d by AWQ."""

    def __init__(self, stem: str, files: Mapping[str, SafetensorsFile], how: Quantisation):
        self._numbers, self._zeros, self._scales = (_part(files, stem, name) for name in _PARTS[:3])
        self._how, self._per_word = how, 32 // how.bits
        self._scales.check(FLOATS)
        if any(len(part.shape) != 2 for part in (self._numbers, self._scales)):
            raise InputError(f"{self._numbers.file.path}: {self._numbers.name} is no matrix")
        groups, d = self._scales.shape
        k = self._numbers.shape[0] * (1 if how.kind == AWQ else self._per_word)
        packed = (k, d // self._per_word) if how.kind == AWQ else (k // self._per_word, d)
        self._numbers.check(("I32",), packed)
        self._zeros.check(("I32",), (groups, d // self._per_word))
        super().__init__(f"{stem}weight", self._numbers, (d, k), self._scales.dtype)
        self._groups = self._read_groups(files, stem, groups, k)

    def _read_groups(self, files, stem: str, groups: int, k: int) -> np.ndarray:
        """Return ``[k]``, the group of each in-feature."""
        if self._how.kind != AWQ and f"{stem}g_idx" in files:
            part = _part(files, stem, "g_idx")
            part.check(("I32", "I64"), (k,))
            index = part.read().astype(np.int64)
        else:
            index = np.arange(k) // (self._how.group or k)
        if index.size and (index.min() < 0 or index.max() >= groups):
            raise InputError(
                f"{self.path}: {self.name} has group {index.max()} of {groups}; the config's group_size is "
                "not that of these weights"
            )
        return index

    def rows(self, first: int, last: int) -> np.ndarray:
        """See ``QuantisedWeight.rows``."""
        start, end = first // self._per_word, -(-last // self._per_word)
        words, skipped = slice(start, end), first - start * self._per_word
        own = slice(skipped, skipped + last - first)
        order = AWQ_ORDER if self._how.kind == AWQ else None
        zeros = unpack_words(np.ascontiguousarray(self._zeros.read()[:, words]), self._how.bits, 1, order)[:, own]
        zeros = (zeros + self._how.offset) & (2**self._how.bits - 1)
        if self._how.kind == AWQ:
            packed = np.ascontiguousarray(self._numbers.read()[:, words])
            numbers = unpack_words(packed, self._how.bits, 1, order)[:, own]
        else:
            packed = np.ascontiguousarray(self._numbers.read()[:, first:last])
            numbers = unpack_words(packed, self._how.bits, 0)
        scales = self._scales.read()[:, first:last]
        return np.ascontiguousarray(dequantise_groups(numbers, zeros, scales, self._groups).T)


def find_packed(files: Mapping[str, SafetensorsFile], how: Quantisation) -> Found:
    """Find the weights of GPTQ or AWQ.

    Args:
      files: which file holds each tensor.
      how: as the config says.

    Raises:
      InputError: a weight whose tensors are missing or do not fit each other.
    """
    weights: dict[str, QuantisedWeight] = {}
    described = set[str]()
    for key in [name for name in files if name.endswith(".qweight")]:
        stem = key.removesuffix("qweight")
        weights[key] = _Packed(stem, files, how)
        described |= {f"{stem}{name}" for name in _PARTS[1:]}
    return Found(weights, described)


def _part(files: Mapping[str, SafetensorsFile], stem: str, name: str) -> Part:
    if f"{stem}{name}" not in files:
        raise InputError(f"{files[f'{stem}qweight'].path}: {stem}qweight is quantised, and {stem}{name} is missing")
    return Part(files[f"{stem}{name}"], f"{stem}{name}")
