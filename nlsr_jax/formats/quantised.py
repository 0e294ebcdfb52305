"""Quantised checkpoints, read as if their weights were floats.

Each quantised weight takes the place of a file that holds it in the type that its library gives it. It is
dequantised when it is read, a part at a time; the tensors that describe it disappear from the checkpoint.
"""

import pathlib
import re
from collections.abc import Mapping

from nlsr_jax.architecture.quantisation import (
    AWQ,
    COMPRESSED,
    FP4,
    FP8,
    GPTQ,
    INT8,
    NF4,
    Quantisation,
    parse_quantisation,
)
from nlsr_jax.errors import InputError
from nlsr_jax.files.json_files import read_json_object
from nlsr_jax.files.paths import is_regular
from nlsr_jax.files.safetensors_files import SafetensorsFile
from nlsr_jax.formats.quantised_bitsandbytes import find_4bit, find_int8
from nlsr_jax.formats.quantised_float8 import find_scaled
from nlsr_jax.formats.quantised_int4 import find_packed
from nlsr_jax.formats.quantised_weight import Found

CONFIG = "config.json"
_FINDERS = {
    NF4: find_4bit,
    FP4: find_4bit,
    INT8: find_int8,
    FP8: find_scaled,
    COMPRESSED: find_scaled,
    GPTQ: find_packed,
    AWQ: find_packed,
}


def dequantised(
    folder: pathlib.Path, files: Mapping[str, SafetensorsFile]
) -> tuple[dict[str, SafetensorsFile], tuple[str, ...]]:
    """Replace the quantised weights of a checkpoint by what dequantises them.

    Args:
      folder: the model directory, whose ``config.json`` says how the weights are quantised.
      files: which file holds each tensor.

    Returns:
      The same with one tensor for each weight, and notes.

    Raises:
      InputError: tensors that are not as the config says.
    """
    how = _how(folder)
    if how is None:
        return dict(files), ()
    found = _FINDERS[how.kind](files, how)
    if not found.weights:
        said = f"{folder / CONFIG} says {how.kind}, and no weight is quantised"
        return dict(files), (f"{said}: all are read as they are",)
    _check_skipped(folder, found, how)
    gone = set(found.weights) | found.described
    plain = {name: file for name, file in files.items() if name not in gone}
    return {**plain, **{weight.name: weight for weight in found.weights.values()}}, ()


def _how(folder: pathlib.Path) -> Quantisation | None:
    if not is_regular(folder / CONFIG):
        return None
    return parse_quantisation(read_json_object(folder / CONFIG, "model config"), str(folder / CONFIG))


def _check_skipped(folder: pathlib.Path, found: Found, how: Quantisation) -> None:
    """Refuse a quantised weight of a module that the config leaves out, for which libraries make a plain layer."""
    for weight in found.weights.values():
        module = weight.name.removesuffix(".weight")
        for skipped in how.skipped:
            if _covers(skipped, module):
                raise InputError(
                    f"{weight.path}: {weight.name} is quantised, but {folder / CONFIG} says that {skipped} is not; "
                    "config and weights are of different models"
                )


def _covers(skipped: str, module: str) -> bool:
    """Say whether a name of the config covers a module: as its beginning or end; patterns are not looked at.

    Source: transformers 5.23, ``should_convert_module``.
    """
    if not re.fullmatch(r"[\w.]+", skipped):
        return False
    return module == skipped or module.startswith(f"{skipped}.") or module.endswith(f".{skipped}")
