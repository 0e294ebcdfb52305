"""Safetensors files: opened with a clear message for each way in which one can be bad, and written in pieces."""

import json
import math
import os
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Self

import ml_dtypes
import numpy as np
import safetensors
from safetensors.numpy import save_file

from nlsr_jax.errors import InputError
from nlsr_jax.files.json_files import RepeatedKey, without_duplicates
from nlsr_jax.files.large_file import LargeFile
from nlsr_jax.files.limits import LIMITS
from nlsr_jax.files.numbers import check_finite
from nlsr_jax.files.paths import START, check_file, check_start, expand, unreadable

_PICKLE = (b"PK\x03\x04", b"\x80\x02", b"\x80\x04", b"\x80\x05")
_BLOCK = 2**23
FLOATS = ("F64", "F32", "F16", "BF16")
_ORDER = (
    "I64", "F64", "F32", "I32", "BF16", "F16", "I16", "F8_E8M0", "F8_E4M3", "F8_E5M2", "I8", "U8", "BOOL",
)  # fmt: skip
"""The order in which the library writes types: wide ones first, for alignment; then by name."""

DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F8_E8M0": ml_dtypes.float8_e8m0fnu,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}


class SafetensorsFile:
    """A safetensors file: names, shapes and types at once, data one tensor at a time.

    The header is read and checked by the safetensors library. Data is read from its place in the file
    straight into the array that wants it, so that no page of the file counts as memory of the process.

    Args:
      path: the file.
      handle: the library's handle, used for the header alone.
    """

    def __init__(self, path: pathlib.Path, handle: Any):
        self.path = path
        self.metadata: dict[str, str] = handle.metadata() or {}
        self._entries: dict[str, tuple[str, tuple[int, ...]]] = {}
        self._start: dict[str, int] = {}
        with path.open("rb") as file:
            offset = 8 + int.from_bytes(file.read(8), "little")
        self._data = offset
        # The format leaves no holes, so the offsets are the running sum of the sizes.
        for name in handle.offset_keys():
            part = handle.get_slice(name)
            self._entries[name] = part.get_dtype(), tuple(part.get_shape())
            self._start[name] = offset
            if self.dtype(name) in DTYPES:
                offset += math.prod(self.shape(name)) * np.dtype(DTYPES[self.dtype(name)]).itemsize
            else:
                raise InputError(f"{path}: tensor {name} has type {self.dtype(name)}, which is not supported")

    def names(self) -> tuple[str, ...]:
        """Return the tensor names, sorted."""
        return tuple(sorted(self._entries))

    def in_order(self) -> tuple[str, ...]:
        """Return the tensor names in the order of their data."""
        return tuple(sorted(self._start, key=self._start.__getitem__))

    def header(self) -> bytes:
        """Return the bytes before the data of the first tensor."""
        with self.path.open("rb") as file:
            return file.read(self._data)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor."""
        return self._entries[name][1]

    def dtype(self, name: str) -> str:
        """Return the type of a tensor as the format names it, such as ``"BF16"``."""
        return self._entries[name][0]

    def numpy_dtype(self, name: str) -> np.dtype:
        """Return the type of a tensor as NumPy names it (``ml_dtypes.bfloat16`` for BF16)."""
        return np.dtype(DTYPES[self.dtype(name)])

    def read(self, name: str, out: np.ndarray | None = None) -> np.ndarray:
        """Read one tensor.

        Args:
          name: the tensor.
          out: a C-contiguous array of its shape and type to read into; a new one by default.

        Returns:
          ``out``.

        Raises:
          InputError: the file can no longer be read to the tensor's end.
        """
        out = empty_aligned(self.shape(name), self.numpy_dtype(name)) if out is None else out
        self._read_at(self._start[name], name, out)
        return out

    def read_rows(self, name: str, rows: slice) -> np.ndarray:
        """Read some rows of the leading axis of one tensor; see ``read``."""
        shape, dtype = self.shape(name), self.numpy_dtype(name)
        first, last, _ = rows.indices(shape[0])
        out = empty_aligned((last - first, *shape[1:]), dtype)
        self._read_at(self._start[name] + first * math.prod(shape[1:]) * dtype.itemsize, name, out)
        return out

    def read_bytes(self, name: str, first: int, last: int) -> np.ndarray:
        """Read bytes ``first`` to ``last`` of one tensor as ``[last - first]`` uint8; see ``read``."""
        out = np.empty(last - first, np.uint8)
        self._read_at(self._start[name] + first, name, out)
        return out

    def blocks(self, name: str) -> Iterator[memoryview]:
        """Yield the bytes of one tensor a block at a time; each is gone when the next is asked for.

        Raises:
          InputError: the file can no longer be read to the tensor's end.
        """
        offset, left = self._start[name], math.prod(self.shape(name)) * self.numpy_dtype(name).itemsize
        block = np.empty(min(_BLOCK, left), np.uint8)
        while left:
            part = block[: min(_BLOCK, left)]
            self._read_at(offset, name, part)
            offset, left = offset + part.size, left - part.size
            yield part.data

    def _read_at(self, offset: int, name: str, out: np.ndarray) -> None:
        target = memoryview(out.reshape(-1).view(np.uint8))  # type: ignore[arg-type]
        try:
            with self.path.open("rb", buffering=0) as file:
                file.seek(offset)
                done = 0
                while done < len(target):
                    count = file.readinto(target[done:])
                    if not count:
                        raise InputError(f"{self.path}: ends within tensor {name}; it is truncated")
                    done += count
        except OSError as error:
            raise unreadable(self.path, error) from error


def empty_aligned(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Return an empty array at a 64-byte boundary: JAX on a CPU uses its memory without a copy."""
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    raw = np.empty(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(shape)


def open_checked(path: str | os.PathLike) -> SafetensorsFile:
    """Open a safetensors file.

    Args:
      path: the file.

    Returns:
      A ``SafetensorsFile``.

    Raises:
      InputError: the file is missing, empty, a Git-LFS pointer, a pickle, truncated or damaged.
    """
    path = expand(path)
    check_file(path, "safetensors weights")
    try:
        with path.open("rb") as file:
            start = file.read(START)
    except OSError as error:
        raise unreadable(path, error) from error
    check_start(start, path, "safetensors weights")
    # The length of a header may begin as a pickle does: then the header itself tells, after eight bytes.
    if start.startswith(_PICKLE) and start[8:9] != b"{":
        raise InputError(f"{path}: a pickle, not safetensors; convert it with safetensors.torch.save_file")
    _check_header(path)
    try:
        with safetensors.safe_open(path, framework="numpy") as handle:
            return SafetensorsFile(path, handle)
    except InputError:
        raise
    except (safetensors.SafetensorError, OSError, ValueError, OverflowError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{path}: not a whole safetensors file ({reason}); it is truncated or damaged, fetch it again"
        ) from error


def _check_header(path: pathlib.Path) -> None:
    """Check what the library lets pass: the size of the header, and names that are there twice."""
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if size > os.fstat(file.fileno()).st_size - 8:
                return  # the library says so
            if size > LIMITS.header_bytes:
                raise InputError(f"{path}: a header of {size} bytes; expected at most {LIMITS.header_bytes}")
            header = json.loads(file.read(size), object_pairs_hook=without_duplicates)
    except InputError:
        raise
    except OSError as error:
        raise unreadable(path, error) from error
    except RepeatedKey as error:
        raise InputError(
            f"{path}: the header holds {str(error.args[0])[:120]!r} twice; which one counts?"
        ) from None
    except (ValueError, RecursionError):
        return  # the library says so
    if isinstance(header, dict) and len(header) > LIMITS.tensors:
        raise InputError(f"{path}: {len(header)} tensors; expected at most {LIMITS.tensors}")


class SafetensorsWriter:
    """A safetensors file written one tensor at a time, so that it need not fit in memory.

    The file is byte for byte what the safetensors library writes of the same tensors.

    Args:
      path: the file.
      tensors: ``{name: (dtype, shape)}`` of everything that will be written.
      metadata: text entries of the header.

    Raises:
      OSError: the disk is full or the file cannot be written.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        tensors: Mapping[str, tuple[np.dtype, tuple[int, ...]]],
        metadata: dict[str, str] | None = None,
    ):
        self.path = pathlib.Path(path)
        names = {np.dtype(value): name for name, value in DTYPES.items()}
        rank = {np.dtype(DTYPES[name]): place for place, name in enumerate(_ORDER)}
        header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
        end = 0
        for name, (dtype, shape) in sorted(tensors.items(), key=lambda item: (rank[item[1][0]], item[0])):
            begin, end = end, end + math.prod(shape) * dtype.itemsize
            header[name] = {"dtype": names[dtype], "shape": list(shape), "data_offsets": [begin, end]}
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % 8)
        start = 8 + len(text)
        self._start = {name: start + header[name]["data_offsets"][0] for name in tensors}
        self._tensors = dict(tensors)
        self._file = LargeFile(self.path, start + end)
        try:
            self._file.write(len(text).to_bytes(8, "little") + text)
        except BaseException:
            self._file.close()
            raise

    def names(self) -> tuple[str, ...]:
        """Return the tensors in the order of the file; written in this order, no byte is read again."""
        return tuple(sorted(self._start, key=self._start.__getitem__))

    def write(self, name: str, value: np.ndarray, *, what: str = "", made: str = "") -> None:
        """Write one tensor, an array of its shape and type.

        Args:
          name: the tensor.
          value: its values.
          what: what to call it where it cannot be written; its name by default.
          made: how it came about and what to do, for the same message.

        Raises:
          InputError: an entry that is NaN or infinite.
        """
        check_finite(value, what or f"tensor {name}", made)
        dtype, shape = self._tensors[name]
        if value.dtype != dtype or value.shape != shape:
            raise ValueError(f"{name} is {value.dtype} {list(value.shape)}; expected {dtype} {list(shape)}")
        self._file.write(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data, self._start[name])

    def write_blocks(self, name: str, blocks: Iterable[memoryview]) -> None:
        """Write the bytes of one tensor, a block after the other."""
        offset = self._start[name]
        for block in blocks:
            self._file.write(block, offset)
            offset += len(block)

    def sha256(self) -> str:
        """Return the SHA-256 of the whole file, once the block has ended."""
        return self._file.sha256()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        self._file.close()


def write_checked(
    tensors: dict[str, np.ndarray], path: str | os.PathLike, metadata: dict[str, str] | None = None
) -> None:
    """Write a safetensors file straight from the arrays' memory.

    Args:
      tensors: C-contiguous arrays by name.
      path: the file.
      metadata: text entries of the header.

    Raises:
      InputError: an entry that is NaN or infinite.
      OSError: the disk is full or the file cannot be written.
    """
    tensors = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
    for name, value in tensors.items():
        check_finite(value, f"tensor {name}")
    try:
        save_file(tensors, path, metadata=metadata)
    except safetensors.SafetensorError as error:
        code = re.search(r"os error (\d+)", str(error))
        if code is None:
            raise
        number = int(code.group(1))
        raise OSError(number, os.strerror(number), str(path)) from error
