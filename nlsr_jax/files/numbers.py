"""Checks that all numbers of an array or of JSON are finite; messages name the type that cannot hold a number."""

import math
from typing import Any

import ml_dtypes
import numpy as np

from nlsr_jax.errors import InputError

_EXPONENTS = {np.dtype(np.float16): 0x7C00, np.dtype(ml_dtypes.bfloat16): 0x7F80}


def count_not_finite(array: np.ndarray) -> int:
    """Count NaN and infinite entries; an array without any costs one dot product, or two maxima of its bits."""
    if array.dtype == np.float32:
        flat = array.reshape(-1)
        with np.errstate(over="ignore", invalid="ignore"):
            if np.isfinite(np.dot(flat, flat)):
                return 0
        return int(np.count_nonzero(~np.isfinite(flat)))
    if array.dtype not in _EXPONENTS:
        return int(np.count_nonzero(~np.isfinite(array)))
    exponent = _EXPONENTS[array.dtype]
    bits = np.ascontiguousarray(array).view(np.uint16)
    # As integers, numbers that are not finite are the largest: positive ones as int16, negative ones as uint16.
    if bits.view(np.int16).max(initial=0) < exponent and bits.max(initial=0) < exponent | 0x8000:
        return 0
    return int(np.count_nonzero((bits & exponent) == exponent))


def describe_range(dtype: Any) -> str:
    """Return a float type's name and its largest number.

    >>> describe_range("float16")
    'float16, whose largest number is 65504'
    """
    dtype = np.dtype(dtype)
    largest = float(ml_dtypes.finfo(dtype).max)
    return f"{dtype.name}, whose largest number is {largest:.6g}"


def check_finite(array: Any, what: str, made: str = "") -> None:
    """Refuse an array with entries that are NaN or infinite.

    Args:
      array: of any type; whole numbers and bools pass.
      what: which array it is, for the message.
      made: how it came about and what to do, if known.

    Raises:
      InputError: naming the array, the number of such entries and the type.
    """
    host = np.asarray(array)
    if host.dtype.kind in "iub":
        return
    if bad := count_not_finite(host):
        raise InputError(
            f"{what} holds {bad} entries that are NaN or infinite, in {describe_range(host.dtype)}"
            + (f": {made}" if made else "")
        )


def find_not_finite(value: Any, path: str = "") -> str | None:
    """Return the place of the first NaN or infinite number in JSON values, such as ``modules[3].x is nan``.

    Args:
      value: dicts, lists and scalars.
      path: place of the value.
    """
    if isinstance(value, float):
        return None if math.isfinite(value) else f"{path} is {value}"
    if isinstance(value, dict):
        inner = ((part, f"{path}.{name}" if path else str(name)) for name, part in value.items())
    elif isinstance(value, list | tuple):
        inner = ((part, f"{path}[{i}]") for i, part in enumerate(value))
    else:
        return None
    return next((found for part, place in inner if (found := find_not_finite(part, place))), None)
