"""How a model's ``config.json`` says that its weights are quantised.

Source: transformers 5.23, ``utils/quantization_config.py``; compressed-tensors 0.20, ``config/base.py``.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from nlsr_jax.architecture.fields import flag, short, whole
from nlsr_jax.errors import InputError

FIELD = "quantization_config"
NF4, FP4, INT8, FP8, COMPRESSED, GPTQ, AWQ = "nf4", "fp4", "int8", "fp8", "compressed-tensors", "gptq", "awq"
_INSTEAD = "give the full-precision model"
_COMPRESSED_FORMATS = ("float-quantized", "int-quantized", "naive-quantized")
_SKIPPED = ("llm_int8_skip_modules", "modules_to_not_convert", "ignored_layers", "ignore")


@dataclasses.dataclass(frozen=True)
class Quantisation:
    """How the weights of a model are stored.

    Attributes:
      kind: ``nf4``, ``fp4``, ``int8`` (LLM.int8), ``fp8``, ``compressed-tensors``, ``gptq`` or ``awq``.
      skipped: modules that are not quantised, as the config names them.
      block: rows and columns of a block of FP8; None for one scale of the whole weight.
      bits, group: bits of an entry and rows of a group of GPTQ and AWQ; a group of None is the whole weight.
      offset: what GPTQ has taken off every stored zero point.
    """

    kind: str
    skipped: tuple[str, ...] = ()
    block: tuple[int, int] | None = None
    bits: int = 4
    group: int | None = None
    offset: int = 0


def parse_quantisation(config: Mapping[str, Any], where: str) -> Quantisation | None:
    """Read how a config says that the weights are quantised.

    Args:
      config: the JSON object of ``config.json``; of a nested one its ``text_config`` counts too.
      where: its file, for messages.

    Returns:
      A ``Quantisation``, or None where the weights are not quantised.

    Raises:
      InputError: a method that is not read, by its name, or a field that makes no sense.
    """
    inner = config.get("text_config")
    found = config.get(FIELD) or (inner.get(FIELD) if isinstance(inner, dict) else None)
    if not found:
        return None
    if not isinstance(found, dict):
        raise InputError(f"{where}: {FIELD} is {short(found)}; expected an object")
    method, place = _method(found), f"{where}: {FIELD}"
    if method not in _READERS:
        raise InputError(f"{place}: quant_method is {short(method)}, which is not read; {_INSTEAD}")
    read = _READERS[method](found, place)
    return None if read is None else dataclasses.replace(read, skipped=_skipped(found, place))


def _method(found: Mapping[str, Any]) -> Any:
    """Return the method; bitsandbytes was the only one before configs named it."""
    loads = found.get("load_in_4bit") or found.get("load_in_8bit")
    return found.get("quant_method") or ("bitsandbytes" if loads else None)


def _skipped(found: Mapping[str, Any], place: str) -> tuple[str, ...]:
    for name in _SKIPPED:
        names = found.get(name)
        if names is None:
            continue
        if not isinstance(names, list) or not all(isinstance(one, str) for one in names):
            raise InputError(f"{place}: {name} is {short(names)}; expected a list of module names")
        return tuple(names)
    return ()


def _read_bitsandbytes(found: Mapping[str, Any], place: str) -> Quantisation | None:
    four, eight = (flag(dict(found), name, place) for name in ("load_in_4bit", "load_in_8bit"))
    if four == eight:
        raise InputError(f"{place}: load_in_4bit is {four} and load_in_8bit is {eight}; expected one of them")
    if eight:
        return None if flag(dict(found), "llm_int8_has_fp16_weight", place) else Quantisation(INT8)
    kind = found.get("bnb_4bit_quant_type", FP4)
    if kind not in (NF4, FP4):
        raise InputError(f"{place}: bnb_4bit_quant_type is {short(kind)}; expected {NF4} or {FP4}")
    return Quantisation(kind)


def _read_fp8(found: Mapping[str, Any], place: str) -> Quantisation:
    block = found.get("weight_block_size", [128, 128])
    if block is None:
        return Quantisation(FP8)
    if not isinstance(block, list) or len(block) != 2:
        raise InputError(f"{place}: weight_block_size is {short(block)}; expected two numbers")
    rows, columns = (whole(size, "weight_block_size", place) for size in block)
    return Quantisation(FP8, block=(rows, columns))


def _read_fbgemm(found: Mapping[str, Any], place: str) -> Quantisation:
    del found, place
    return Quantisation(FP8)


def _read_compressed(found: Mapping[str, Any], place: str) -> Quantisation:
    groups = found.get("config_groups")
    named = [group.get("format") for group in groups.values() if isinstance(group, dict)] if groups else []
    for name in [*filter(None, named), *([] if all(named) and named else [found.get("format")])]:
        if name not in _COMPRESSED_FORMATS:
            expected = ", ".join(_COMPRESSED_FORMATS)
            raise InputError(f"{place}: format is {short(name)}, of which {expected} are read; {_INSTEAD}")
    if found.get("sparsity_config") and (found["sparsity_config"] or {}).get("format") not in (None, "dense"):
        raise InputError(f"{place}: sparsity_config is {short(found['sparsity_config'])}, not read; {_INSTEAD}")
    return Quantisation(COMPRESSED)


def _read_gptq(found: Mapping[str, Any], place: str) -> Quantisation:
    version = found.get("checkpoint_format") or GPTQ
    if version not in (GPTQ, "gptq_v2"):
        raise InputError(f"{place}: checkpoint_format is {short(version)}, which is not read; {_INSTEAD}")
    return Quantisation(GPTQ, **_integers(found, place, (2, 4, 8)), offset=int(version == GPTQ))


def _read_awq(found: Mapping[str, Any], place: str) -> Quantisation:
    version = str(found.get("version") or "gemm").lower()
    if version != "gemm":
        raise InputError(f"{place}: version is {short(version)}, of which gemm alone is read; {_INSTEAD}")
    return Quantisation(AWQ, **_integers(found, place, (4,)))


def _integers(found: Mapping[str, Any], place: str, allowed: tuple[int, ...]) -> dict[str, Any]:
    bits, group = found.get("bits", 4), found.get("group_size", 128)
    if bits not in allowed or isinstance(bits, bool):
        expected = " or ".join(map(str, allowed))
        raise InputError(f"{place}: bits is {short(bits)}; {expected} are read: {_INSTEAD}")
    return {"bits": bits, "group": None if group in (-1, None) else whole(group, "group_size", place)}


_READERS = {
    "bitsandbytes": _read_bitsandbytes,
    FP8: _read_fp8,
    "fbgemm_fp8": _read_fbgemm,
    COMPRESSED: _read_compressed,
    GPTQ: _read_gptq,
    AWQ: _read_awq,
}
