"""The weight files of a model written again with some matrices replaced: all else is copied byte for byte."""

import pathlib
from collections.abc import Callable

import numpy as np

from nlsr_jax.files.large_file import LargeFile, copy_digested
from nlsr_jax.files.safetensors_files import SafetensorsFile
from nlsr_jax.formats.model_matrices import ModelMatrices
from nlsr_jax.formats.weight_files import INDEX, WEIGHTS

Replace = Callable[[str, int], np.ndarray | None]
"""Returns what a matrix ``(module, layer)`` becomes, ``[d, k]`` in its own type; None where it stays."""


def weight_files(model: ModelMatrices) -> list[pathlib.Path]:
    """Return the files that hold a model's weights, the index of its shards with them where it is read."""
    shards = {file.path for file in model.all_tensors().values()}
    index = model.folder / INDEX
    return sorted([*shards, index] if WEIGHTS not in {file.name for file in shards} else shards)


def copy_model(model: ModelMatrices, folder: pathlib.Path, replace: Replace) -> dict[str, str]:
    """Write a model's shards with some matrices replaced, and their index.

    Args:
      model: what is copied.
      folder: a folder that exists and holds none of the files.
      replace: is asked for every matrix, in the order of the shards; one is in memory at a time.

    Returns:
      The SHA-256 of the files by name.
    """
    places = {}
    for module, layer in model:
        place = model.place(module, layer)
        places[place.file.path.name, place.own] = module, layer
    shards = {file.path.name: file for file in model.all_tensors().values()}
    digests = {}
    for name, file in sorted(shards.items()):
        own = {tensor: places[name, tensor] for tensor in file.names() if (name, tensor) in places}
        digests[name] = _copy_shard(file, folder / name, own, replace)
    for source in weight_files(model):
        if source.name not in shards:
            digests[source.name] = copy_digested(source, folder / source.name)
    return digests


def _copy_shard(file: SafetensorsFile, target: pathlib.Path, matrices: dict, replace: Replace) -> str:
    copy = LargeFile(target, file.path.stat().st_size)
    try:
        copy.write(file.header())
        for name in file.in_order():
            value = replace(*matrices[name]) if name in matrices else None
            if value is None:
                for block in file.blocks(name):
                    copy.write(block)
            else:
                copy.write(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)
    finally:
        copy.close()
    return copy.sha256()
