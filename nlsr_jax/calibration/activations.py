"""The activations of a streamed pass: what goes into every layer, kept in memory or in a file.

They are kept while all of them are at most a quarter of the memory that is left when the pass begins: layers,
factors and what one layer computes need the rest. More of them go to a file without a name, which ends with the
process however that ends.
"""

import os
import pathlib
import tempfile
from collections.abc import Hashable
from typing import Any, Self

import numpy as np

from nlsr_jax.errors import InputError
from nlsr_jax.files.memory import available_bytes
from nlsr_jax.files.safetensors_files import empty_aligned

SHARE = 4
"""Activations are kept in memory up to this fraction, one in so many, of the bytes that are left."""


class Activations:
    """Arrays by place; an array may be put into the place of another one of its shape and type.

    Args:
      size: bytes of all that will be put.
      folder: where the file is made; None for the system's temporary folder.
      limit: bytes that are kept in memory; by default a quarter of what is left.

    Attributes:
      spilled: whether they go to a file.

    Raises:
      InputError: the file cannot be made.
    """

    def __init__(self, size: int, folder: pathlib.Path | None = None, limit: int | None = None):
        if limit is None:
            left = available_bytes()
            limit = size if left is None else left // SHARE
        self.spilled = size > limit
        self._kept: dict[Hashable, np.ndarray] = {}
        self._places: dict[Hashable, tuple[int, tuple[int, ...], np.dtype]] = {}
        self._end, self._folder = 0, folder
        self._file: Any = None
        if self.spilled:
            try:
                self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 (closed by __exit__)
            except OSError as error:
                raise self._unwritable(error) from error

    def put(self, place: Hashable, value: Any) -> None:
        """Keep an array.

        Raises:
          InputError: the file cannot be written.
        """
        value = np.asarray(value)
        if not self.spilled:
            self._kept[place] = value
            return
        offset = self._places.setdefault(place, (self._end, value.shape, value.dtype))[0]
        self._end = max(self._end, offset + value.nbytes)
        data = memoryview(np.ascontiguousarray(value).reshape(-1).view(np.uint8))  # type: ignore[arg-type]
        try:
            while data:
                done = os.pwrite(self._file.fileno(), data, offset)
                data, offset = data[done:], offset + done
        except OSError as error:
            raise self._unwritable(error) from error

    def get(self, place: Hashable) -> np.ndarray:
        """Return the array that was put there last.

        Raises:
          InputError: the file cannot be read.
        """
        if not self.spilled:
            return self._kept[place]
        offset, shape, dtype = self._places[place]
        found = empty_aligned(shape, dtype)
        target = memoryview(found.reshape(-1).view(np.uint8))  # type: ignore[arg-type]
        try:
            while target:
                done = os.preadv(self._file.fileno(), [target], offset)
                if not done:
                    raise OSError("it ends too early")
                target, offset = target[done:], offset + done
        except OSError as error:
            raise self._unwritable(error) from error
        return found

    def drop(self, place: Hashable) -> None:
        """Forget an array that is needed no more."""
        self._kept.pop(place, None)

    def _unwritable(self, error: OSError) -> InputError:
        reason = error.strerror or str(error)
        where = self._folder or tempfile.gettempdir()
        return InputError(
            f"{where}: activations of a streamed pass do not fit there ({reason}); make room, or give "
            "fewer or shorter calibration rows"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        if self._file is not None:
            self._file.close()
