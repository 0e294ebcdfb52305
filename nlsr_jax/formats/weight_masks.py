"""Masks of full weights on disk: ``masks.safetensors`` with the packed bits of every matrix.

A tensor is named as the matrix is in the model, such as ``model.layers.0.self_attn.q_proj.weight``, and holds its
mask ``[d, k]`` as U8 ``[d, ⌈k / 8⌉]``: eight entries of a row in a byte, the first one in the highest bit, zeros
behind the last (``numpy.packbits`` along the last axis).
"""

import json
import os
import pathlib
from typing import Any

import numpy as np

from nlsr_jax.errors import InputError
from nlsr_jax.files.paths import exists, expand, is_folder
from nlsr_jax.files.safetensors_files import SafetensorsWriter, open_checked
from nlsr_jax.formats.mask_files import ENTRY, FILE
from nlsr_jax.formats.model_matrices import ModelMatrices

LAYOUT = "packed bits"


class WeightMaskWriter(SafetensorsWriter):
    """Writes masks one matrix at a time.

    Args:
      path: the file.
      model: whose matrices the masks are of.
      metadata: text entries, such as the method.
    """

    def __init__(self, path: pathlib.Path, model: ModelMatrices, metadata: dict[str, Any]):
        self._model = model
        tensors = {}
        for module, layer in model:
            d, k = model.shape(module, layer)
            tensors[model.place(module, layer).name] = np.dtype(np.uint8), (d, -(-k // 8))
        super().__init__(path, tensors, {ENTRY: json.dumps({**metadata, "layout": LAYOUT})})

    def write_mask(self, module: str, layer: int, mask: np.ndarray) -> None:
        """Write the mask ``[d, k]`` bool of one matrix."""
        self.write(self._model.place(module, layer).name, np.packbits(mask, axis=-1))


class WeightMaskFile:
    """Masks in a file, read one matrix at a time.

    Args:
      path: the file, or a folder that holds ``masks.safetensors``.
      model: whose matrices the masks must fit.

    Attributes:
      path: of the file.
      metadata: text entries.

    Raises:
      InputError: the file is missing or damaged, or does not hold masks of this model's matrices.
    """

    def __init__(self, path: str | os.PathLike, model: ModelMatrices):
        path = expand(path)
        self.path = path / FILE if is_folder(path) else path
        if not exists(self.path):
            raise InputError(f"{self.path}: no such file; expected masks of full weights")
        self._file, self._model = open_checked(self.path), model
        try:
            self.metadata = json.loads(self._file.metadata.get(ENTRY, "{}"))
        except (ValueError, RecursionError):
            self.metadata = {}
        if not isinstance(self.metadata, dict) or self.metadata.get("layout") != LAYOUT:
            raise InputError(f"{self.path}: holds no masks of full weights; masks of adapters do not fit a model")
        self._check_fit()

    def _check_fit(self) -> None:
        wanted = {}
        for module, layer in self._model:
            d, k = self._model.shape(module, layer)
            wanted[self._model.place(module, layer).name] = "U8", (d, -(-k // 8))
        found = {name: (self._file.dtype(name), self._file.shape(name)) for name in self._file.names()}
        different = sorted(name for name in {*wanted, *found} if wanted.get(name) != found.get(name))
        if different:
            raise InputError(
                f"{self.path}: {different[0]} does not fit {self._model.path} ({len(different)} tensors in all); "
                "give the masks of this model"
            )

    def read(self, module: str, layer: int) -> np.ndarray:
        """Read the mask ``[d, k]`` bool of one matrix."""
        packed = self._file.read(self._model.place(module, layer).name)
        return np.unpackbits(packed, axis=-1, count=self._model.shape(module, layer)[1]).astype(bool)
