"""Safetensors files, opened with every way in which they can be bad told apart."""

import os
import pathlib
import re

import ml_dtypes  # noqa: F401  (registers bfloat16 with NumPy, which the safetensors library asks for)
import numpy as np
import safetensors
from safetensors.numpy import save_file

from nlsr_jax.errors import InputError
from nlsr_jax.formats.output import describe_os_error

_LFS = b"version https://git-lfs"
_PICKLE = (b"PK\x03\x04", b"\x80\x02", b"\x80\x04", b"\x80\x05")
FLOATS = ("F64", "F32", "F16", "BF16")


class SafetensorsFile:
    """An open safetensors file: names, shapes and types at once, data one tensor at a time.

    Args:
      path: the file.
      handle: the safetensors library's handle.
    """

    def __init__(self, path: pathlib.Path, handle):
        self.path = path
        self.metadata: dict[str, str] = handle.metadata() or {}
        self._handle = handle
        self._entries: dict[str, tuple[str, tuple[int, ...]]] = {}
        for name in handle.keys():  # noqa: SIM118  (the handle is no mapping)
            part = handle.get_slice(name)
            self._entries[name] = part.get_dtype(), tuple(part.get_shape())

    def names(self) -> tuple[str, ...]:
        """Return the tensor names, sorted."""
        return tuple(sorted(self._entries))

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor."""
        return self._entries[name][1]

    def dtype(self, name: str) -> str:
        """Return the type of a tensor as the format names it, such as ``"BF16"``."""
        return self._entries[name][0]

    def read(self, name: str) -> np.ndarray:
        """Return one tensor, in its own type (``ml_dtypes.bfloat16`` for BF16).

        Raises:
          InputError: a type that NumPy does not have.
        """
        try:
            return self._handle.get_tensor(name)
        except (safetensors.SafetensorError, TypeError, AttributeError, ValueError) as error:
            raise InputError(
                f"{self.path}: tensor {name} of type {self.dtype(name)} cannot be read ({error})"
            ) from error


def open_checked(path: str | os.PathLike) -> SafetensorsFile:
    """Open a safetensors file.

    Args:
      path: the file.

    Returns:
      A ``SafetensorsFile``; its file is closed when it is no longer referenced.

    Raises:
      InputError: the file is missing, empty, a Git-LFS pointer, a pickle, truncated or damaged.
    """
    path = pathlib.Path(path)
    try:
        with path.open("rb") as file:
            start = file.read(len(_LFS))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; expected safetensors weights") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    if not start:
        raise InputError(f"{path}: the file is empty; expected safetensors weights")
    if start == _LFS:
        raise InputError(f"{path}: a Git-LFS pointer, not the weights; run 'git lfs pull'")
    if start.startswith(_PICKLE):
        raise InputError(f"{path}: a pickle, not safetensors; convert it with safetensors.torch.save_file")
    try:
        handle = safetensors.safe_open(path, framework="numpy")
        return SafetensorsFile(path, handle)
    except (safetensors.SafetensorError, OSError, ValueError, OverflowError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{path}: not a whole safetensors file ({reason}); it is truncated or damaged, fetch it again"
        ) from error


def write_checked(
    tensors: dict[str, np.ndarray], path: str | os.PathLike, metadata: dict[str, str] | None = None
) -> None:
    """Write a safetensors file straight from the arrays' memory.

    Args:
      tensors: C-contiguous arrays by name.
      path: the file.
      metadata: text entries of the header.

    Raises:
      InputError: the disk is full or the file cannot be written.
    """
    tensors = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
    try:
        save_file(tensors, path, metadata=metadata)
    except OSError as error:
        raise InputError(describe_os_error(error, path)) from error
    except safetensors.SafetensorError as error:
        code = re.search(r"os error (\d+)", str(error))
        if code is None:
            raise
        number = int(code.group(1))
        raise InputError(describe_os_error(OSError(number, os.strerror(number)), path)) from error
