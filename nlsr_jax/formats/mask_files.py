"""Masks on disk: ``masks.safetensors`` with one bool tensor per stacked factor, ``q_proj.a [L, r, k]``."""

import json
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from nlsr_jax.errors import InputError
from nlsr_jax.files.folders import elsewhere
from nlsr_jax.files.output import whole_file
from nlsr_jax.files.paths import exists, expand, is_folder
from nlsr_jax.files.safetensors_files import open_checked, write_checked
from nlsr_jax.modules import is_module_name

FILE = "masks.safetensors"
ENTRY = "nlsr_jax.masks"


def save_masks(
    masks: Mapping[str, Any],
    path: str | os.PathLike,
    *,
    layers: Mapping[str, Sequence[int]] | None = None,
    metadata: dict[str, str] | None = None,
    overwrite: bool = False,
) -> None:
    """Write masks to a safetensors file, complete or not at all.

    Args:
      masks: ``{module: {"a": [L, r, k], "b": [L, d, r]}}`` bool.
      path: the file.
      layers: ``{module: decoder layers of the leading axis}``, kept in the metadata.
      metadata: further text entries, such as the method.
      overwrite: replace a file of masks that exists.

    Raises:
      InputError: the file exists or does not hold masks, the disk is full or it cannot be written.
    """
    with whole_file(path, overwrite=overwrite, foreign=_foreign) as file:
        write_masks(masks, file, layers=layers, metadata=metadata)


def _foreign(path: pathlib.Path) -> str | None:
    try:
        own = not path.stat().st_size or ENTRY in open_checked(path).metadata
    except InputError:
        own = False
    return None if own else "this file holds no masks"


def write_masks(
    masks: Mapping[str, Any],
    path: pathlib.Path,
    *,
    layers: Mapping[str, Sequence[int]] | None = None,
    metadata: dict[str, str] | None = None,
) -> None:
    """Write masks to a file of a folder that is being made; see ``save_masks``.

    Raises:
      InputError: masks that are not bool.
      OSError: the disk is full or the file cannot be written.
    """
    tensors = {f"{m}.{f}": np.asarray(leaf) for m in sorted(masks) for f, leaf in masks[m].items()}
    for name, mask in tensors.items():
        if mask.dtype != bool:
            raise InputError(f"masks: {name} is {mask.dtype}; expected bool")
    described = {
        **(metadata or {}),
        "layers": {m: list(layers[m]) for m in sorted(layers)} if layers else None,
    }
    # One entry: the order of several in a header changes from process to process.
    write_checked(tensors, path, {ENTRY: json.dumps(described)})


class MaskFile(Mapping):
    """Masks in a file, read one module name at a time.

    A mapping ``{module: {"a": [L, r, k], "b": [L, d, r]}}`` of bool arrays.

    Args:
      path: the file, or a folder that holds ``masks.safetensors``.

    Raises:
      InputError: the file is missing or damaged, or does not hold masks.
    """

    def __init__(self, path: str | os.PathLike):
        path = expand(path)
        self.path = path / FILE if is_folder(path) else path
        if is_folder(path) and not exists(self.path):
            raise InputError(f"{path}: {FILE} is missing; expected masks{elsewhere(path, (FILE,))}")
        self._file = open_checked(self.path)
        self.metadata = self._described()
        self._factors: dict[str, list[str]] = {}
        for name in self._file.names():
            module, _, factor = name.rpartition(".")
            if not is_module_name(module) or factor not in ("a", "b"):
                raise InputError(f"{self.path}: unexpected tensor {name!r}; expected names such as 'q_proj.a'")
            if self._file.dtype(name) != "BOOL" or len(self._file.shape(name)) != 3:
                found = f"{self._file.dtype(name)} {list(self._file.shape(name))}"
                raise InputError(f"{self.path}: {name} is {found}; expected 3-d BOOL")
            self._factors.setdefault(module, []).append(factor)
        if not self._factors:
            raise InputError(f"{self.path}: holds no masks")

    def _described(self) -> dict:
        try:
            described = json.loads(self._file.metadata.get(ENTRY, "{}"))
        except (ValueError, RecursionError) as error:
            raise InputError(f"{self.path}: the description of the masks is not JSON") from error
        return described if isinstance(described, dict) else {}

    def __getitem__(self, module: str) -> dict[str, np.ndarray]:
        return {f: self._file.read(f"{module}.{f}") for f in self._factors[module]}

    def read_layers(self, module: str, rows: slice) -> dict[str, np.ndarray]:
        """Read the masks of some layers, ``rows`` of the leading axis, of one module name."""
        return {f: self._file.read_rows(f"{module}.{f}", rows) for f in self._factors[module]}

    def __iter__(self) -> Iterator[str]:
        return iter(self._factors)

    def __len__(self) -> int:
        return len(self._factors)

    def shapes(self) -> dict[str, dict[str, jax.ShapeDtypeStruct]]:
        """Return the tree of shapes without reading data."""
        return {
            module: {f: jax.ShapeDtypeStruct(self._file.shape(f"{module}.{f}"), bool) for f in factors}
            for module, factors in self._factors.items()
        }


def load_masks(path: str | os.PathLike) -> dict[str, dict[str, np.ndarray]]:
    """Read masks written by ``save_masks``.

    Args:
      path: the file, or a folder that holds ``masks.safetensors``.

    Returns:
      ``{module: {"a": [L, r, k], "b": [L, d, r]}}`` bool.

    Raises:
      InputError: the file is missing or damaged, or does not hold masks.
    """
    file = MaskFile(path)
    return {module: file[module] for module in file}
