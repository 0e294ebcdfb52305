"""Masks on disk: ``masks.safetensors`` with one bool tensor per stacked factor, ``q_proj.a [L, r, k]``."""

import json
import os
import pathlib

import numpy as np

from nlsr_jax.adapter import MODULES
from nlsr_jax.errors import InputError
from nlsr_jax.formats.safetensors_files import open_checked, write_checked

FILE = "masks.safetensors"


def save_masks(
    masks, path: str | os.PathLike, *, layers=None, metadata: dict[str, str] | None = None
) -> None:
    """Write masks to a safetensors file.

    Args:
      masks: ``{module: {"a": [L, r, k], "b": [L, d, r]}}`` bool.
      path: the file.
      layers: ``{module: decoder layers of the leading axis}``, kept in the metadata.
      metadata: further text entries, such as the method.
    """
    tensors = {f"{m}.{f}": np.asarray(masks[m][f]) for m in sorted(masks) for f in ("a", "b")}
    text = {"format": "nlsr_jax.masks", **(metadata or {})}
    if layers:
        text["layers"] = json.dumps({m: list(layers[m]) for m in sorted(layers)})
    write_checked(tensors, path, text)


def load_masks(path: str | os.PathLike):
    """Read masks written by ``save_masks``.

    Args:
      path: the file, or a folder that holds ``masks.safetensors``.

    Returns:
      ``(masks, metadata)``: a bool tree ``{module: {"a", "b"}}`` and the file's text entries.

    Raises:
      InputError: the file is missing or damaged, or does not hold masks.
    """
    path = pathlib.Path(path)
    path = path / FILE if path.is_dir() else path
    file = open_checked(path)
    masks: dict[str, dict[str, np.ndarray]] = {}
    for name in file.names():
        module, _, factor = name.partition(".")
        if module not in MODULES or factor not in ("a", "b"):
            raise InputError(f"{path}: unexpected tensor {name!r}; expected names such as 'q_proj.a'")
        if file.dtype(name) != "BOOL" or len(file.shape(name)) != 3:
            raise InputError(
                f"{path}: {name} is {file.dtype(name)} {list(file.shape(name))}; expected 3-d BOOL"
            )
        masks.setdefault(module, {})[factor] = np.array(file.read(name))
    if not masks:
        raise InputError(f"{path}: holds no masks")
    return masks, dict(file.metadata or {})
