"""Weights that bitsandbytes has quantised: NF4 and FP4, with and without double quantisation, and LLM.int8.

Source: bitsandbytes 0.50, ``functional.QuantState`` (``from_dict``, ``as_dict``) and ``nn.modules.Linear8bitLt``.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from nlsr_jax.architecture.fields import positive, short, whole
from nlsr_jax.architecture.quantisation import FP4, NF4, Quantisation
from nlsr_jax.errors import InputError
from nlsr_jax.files.safetensors_files import SafetensorsFile
from nlsr_jax.formats.quantised_codes import FP4_CODE, NF4_CODE, dequantise_4bit, dequantise_int8, dequantise_nested
from nlsr_jax.formats.quantised_weight import Found, Part, QuantisedWeight

_CODES = {NF4: NF4_CODE, FP4: FP4_CODE}
_TYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
_BLOCKSIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)
_STATE = ".quant_state.bitsandbytes__"
_STATE_BYTES = 65_536
_DESCRIBING = ("absmax", "quant_map", "nested_absmax", "nested_quant_map")
_STORAGE = ("U8", "I8", "F16", "BF16", "F32", "F64")
_ROW_FORMAT = 0
_FORMATS = {1: "col32", 2: "col_turing", 3: "col_ampere"}


class _FourBit(QuantisedWeight):
    """NF4 or FP4: two numbers a byte, a scale for every block, which may be quantised too."""

    def __init__(self, name: str, files: Mapping[str, SafetensorsFile], kind: str):
        packed = Part(files[name], name)
        state = _read_state(Part(files[f"{name}{_STATE}{kind}"], f"{name}{_STATE}{kind}"), kind)
        super().__init__(name, packed, state["shape"], _TYPES[state["dtype"]])
        self._packed, self._code, self._blocksize = packed, _CODES[kind], state["blocksize"]
        size = math.prod(state["shape"])
        packed.check(_STORAGE)
        stored = math.prod(packed.shape) * packed.file.numpy_dtype(name).itemsize
        if stored != (size + 1) // 2 or packed.shape[-1:] != (1,):
            raise InputError(
                f"{self.path}: {name} is {list(packed.shape)} {packed.dtype}; expected "
                f"the {(size + 1) // 2} bytes of {list(state['shape'])} in one column"
            )
        part = _parts(files, name)
        self._absmax = part("absmax")
        code = part("quant_map")
        code.check(("F32",), (16,))
        if not np.allclose(code.read(), self._code, rtol=0, atol=1e-3):
            raise InputError(f"{self.path}: {code.name} holds other values than {kind}'s; it is of another type")
        count = -(-size // self._blocksize)
        self._nested = f"{name}.nested_absmax" in files
        self._absmax.check(("U8",) if self._nested else ("F32",), (count,))
        if self._nested:
            self._outer_size, self._offset = _read_nested(state, self._absmax)
            self._outer, self._outer_code = part("nested_absmax"), part("nested_quant_map")
            self._outer.check(("F32",), (-(-count // self._outer_size),))
            self._outer_code.check(("F32",), (256,))

    def rows(self, first: int, last: int) -> np.ndarray:
        """See ``QuantisedWeight.rows``."""
        shape = self.shape(self.name)
        width, size = math.prod(shape[1:]), math.prod(shape)
        start, end = first * width, last * width
        block, after = start // self._blocksize, -(-end // self._blocksize)
        begin = block * self._blocksize
        stop = min((after * self._blocksize) // 2, (size + 1) // 2)
        packed = self._packed.file.read_bytes(self._packed.name, begin // 2, stop)
        found = dequantise_4bit(packed, self._scales(block, after), self._code, self._blocksize)
        part = found[start - begin : end - begin].reshape(last - first, *shape[1:])
        return part.astype(self.numpy_dtype(self.name), copy=False)

    def _scales(self, first: int, last: int) -> np.ndarray:
        scales = self._absmax.file.read_rows(self._absmax.name, slice(first, last))
        if not self._nested:
            return scales
        outer, code = self._outer.read(), self._outer_code.read()
        return dequantise_nested(scales, outer, code, self._outer_size, self._offset, first)


class _Int8(QuantisedWeight):
    """LLM.int8: one scale for every row."""

    def __init__(self, name: str, files: Mapping[str, SafetensorsFile]):
        numbers = Part(files[name], name)
        if len(numbers.shape) != 2:
            raise InputError(f"{numbers.file.path}: {name} is {list(numbers.shape)}; expected a matrix of LLM.int8")
        super().__init__(name, numbers, numbers.shape, "F32")
        numbers.check(("I8",))
        stem = name.removesuffix("weight")
        self._scales = Part(files[f"{stem}SCB"], f"{stem}SCB")
        self._scales.check(("F32",), (numbers.shape[0],))
        self._numbers = numbers
        _check_format(files, f"{stem}weight_format")

    def rows(self, first: int, last: int) -> np.ndarray:
        """See ``QuantisedWeight.rows``."""
        span = slice(first, last)
        numbers, scales = (part.file.read_rows(part.name, span) for part in (self._numbers, self._scales))
        return dequantise_int8(numbers, scales)


def find_4bit(files: Mapping[str, SafetensorsFile], how: Quantisation) -> Found:
    """Find the weights of NF4 and FP4.

    Args:
      files: which file holds each tensor.
      how: as the config says; every weight's own state decides between the two.

    Raises:
      InputError: a weight whose tensors are missing or do not fit each other.
    """
    weights: dict[str, QuantisedWeight] = {}
    described = set[str]()
    for key in [name for name in files if _STATE in name]:
        name, _, kind = key.partition(_STATE)
        if kind not in _CODES:
            raise InputError(f"{files[key].path}: {key} has an unknown type; expected {' or '.join(_CODES)}")
        if name not in files:
            raise InputError(f"{files[key].path}: {key} describes a weight that is missing")
        weights[name] = _FourBit(name, files, kind)
        described |= {key, *(f"{name}.{suffix}" for suffix in _DESCRIBING)}
    return Found(weights, described)


def find_int8(files: Mapping[str, SafetensorsFile], how: Quantisation) -> Found:
    """Find the weights of LLM.int8; see ``find_4bit``."""
    weights: dict[str, QuantisedWeight] = {}
    described = set[str]()
    for key in [name for name in files if name.endswith(".SCB")]:
        name = f"{key.removesuffix('SCB')}weight"
        if name not in files:
            raise InputError(f"{files[key].path}: {key} describes a weight that is missing")
        weights[name] = _Int8(name, files)
        described |= {key, f"{name}_format"}
    return Found(weights, described)


def _parts(files: Mapping[str, SafetensorsFile], name: str):
    """Return what finds a tensor that describes a weight."""

    def part(suffix: str) -> Part:
        own = f"{name}.{suffix}"
        if own not in files:
            raise InputError(f"{files[name].path}: {name} is quantised, and {own} is missing")
        return Part(files[own], own)

    return part


def _read_state(part: Part, kind: str) -> dict[str, Any]:
    """Read and check the JSON text that bitsandbytes keeps as bytes."""
    where = f"{part.file.path}: {part.name}"
    part.check(("U8",))
    if math.prod(part.shape) > _STATE_BYTES:
        raise InputError(f"{where} holds {math.prod(part.shape)} bytes; expected at most {_STATE_BYTES}")
    try:
        state = json.loads(part.read().tobytes())
        sizes = state["shape"]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise InputError(f"{where} is not the JSON text of bitsandbytes; the file is damaged") from None
    if state.get("quant_type") != kind or state.get("dtype") not in _TYPES:
        found = f"{short(state.get('quant_type'))} of {short(state.get('dtype'))}"
        raise InputError(f"{where} says {found}; expected {kind} of {', '.join(_TYPES)}")
    if state.get("blocksize") not in _BLOCKSIZES:
        raise InputError(f"{where}: blocksize is {short(state.get('blocksize'))}; expected one of {_BLOCKSIZES}")
    if not isinstance(sizes, list) or not sizes:
        raise InputError(f"{where}: shape is {short(sizes)}; expected the sizes of a weight")
    return {**state, "shape": tuple(whole(size, "shape", where) for size in sizes)}


def _read_nested(state: Mapping[str, Any], absmax: Part) -> tuple[int, float]:
    """Return block size and offset of scales that are quantised too."""
    where = f"{absmax.file.path}: {absmax.name}"
    if state.get("nested_dtype") != "float32":
        raise InputError(f"{where}: nested_dtype is {short(state.get('nested_dtype'))}; expected float32")
    offset = state.get("nested_offset")
    if isinstance(offset, bool) or not isinstance(offset, int | float) or not math.isfinite(offset):
        raise InputError(f"{where}: nested_offset is {short(offset)}; expected a number")
    return int(positive(whole(state.get("nested_blocksize"), "nested_blocksize", where), "", where)), float(offset)


def _check_format(files: Mapping[str, SafetensorsFile], name: str) -> None:
    """Refuse layouts of former versions that only one kind of GPU could read."""
    if name not in files:
        return
    part = Part(files[name], name)
    part.check(("U8",), ())
    if (found := int(part.read())) != _ROW_FORMAT:
        raise InputError(
            f"{part.file.path}: {name} is {_FORMATS.get(found, found)}; expected row: load the model with "
            "transformers and save it again"
        )
