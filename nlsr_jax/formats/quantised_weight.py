"""One quantised weight with the interface of a file that holds it as floats."""

import abc
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from nlsr_jax.errors import InputError
from nlsr_jax.files.safetensors_files import SafetensorsFile, empty_aligned

_CHUNK = 2**22
"""Numbers that are dequantised at a time."""


class Part(NamedTuple):
    """One tensor of a checkpoint."""

    file: SafetensorsFile
    name: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        return self.file.shape(self.name)

    @property
    def dtype(self) -> str:
        """Its type as the format names it."""
        return self.file.dtype(self.name)

    def read(self) -> np.ndarray:
        """Return all of it."""
        return self.file.read(self.name)

    def check(self, dtypes: tuple[str, ...], *shapes: tuple[int, ...]) -> None:
        """Check type and shape.

        Raises:
          InputError: it has another type, or none of the shapes where some are given.
        """
        if self.dtype not in dtypes:
            raise InputError(f"{self.file.path}: {self.name} has type {self.dtype}; expected {' or '.join(dtypes)}")
        if shapes and self.shape not in shapes:
            expected = " or ".join(str(list(shape)) for shape in shapes)
            raise InputError(f"{self.file.path}: {self.name} is {list(self.shape)}; expected {expected}")


class QuantisedWeight(SafetensorsFile, abc.ABC):
    """A weight that is dequantised when it is read.

    Args:
      name: of the weight in a checkpoint of floats.
      part: the tensor that holds its numbers.
      shape: of the weight.
      dtype: the type that its library gives it, as the format names it.
    """

    def __init__(self, name: str, part: Part, shape: tuple[int, ...], dtype: str):
        self.name, self.path, self.metadata = name, part.file.path, {}
        self._entries = {name: (dtype, shape)}
        self._start = {}

    @abc.abstractmethod
    def rows(self, first: int, last: int) -> np.ndarray:
        """Return rows ``first`` to ``last`` of the leading axis, of the weight's type."""

    def read(self, name: str, out: np.ndarray | None = None) -> np.ndarray:
        """Dequantise the weight; see ``SafetensorsFile.read``."""
        out = empty_aligned(self.shape(name), self.numpy_dtype(name)) if out is None else out
        self._fill(out, 0)
        return out

    def read_rows(self, name: str, rows: slice) -> np.ndarray:
        """Dequantise some rows; see ``SafetensorsFile.read_rows``."""
        shape = self.shape(name)
        first, last, _ = rows.indices(shape[0])
        out = empty_aligned((max(last - first, 0), *shape[1:]), self.numpy_dtype(name))
        self._fill(out, first)
        return out

    def blocks(self, name: str) -> Iterator[memoryview]:
        """Yield the bytes of the dequantised weight; see ``SafetensorsFile.blocks``."""
        for first, last in self._spans(0, self.shape(name)[0]):
            yield np.ascontiguousarray(self.rows(first, last)).reshape(-1).view(np.uint8).data

    def _fill(self, out: np.ndarray, start: int) -> None:
        for first, last in self._spans(start, start + len(out)):
            out[first - start : last - start] = self.rows(first, last)

    def _spans(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Cut rows into spans of a fixed size in memory."""
        _, *width = self.shape(self.name)
        step = max(_CHUNK // max(int(np.prod(width)), 1), 1)
        for start in range(first, last, step):
            yield start, min(start + step, last)


class Found(NamedTuple):
    """The quantised weights of a checkpoint.

    Attributes:
      weights: by the tensor that holds their numbers.
      described: the tensors that describe them.
    """

    weights: dict[str, QuantisedWeight]
    described: set[str]
