"""A model directory written again with some matrices replaced: everything else is copied byte for byte."""

import pathlib
import re
from collections.abc import Callable

import numpy as np

from nlsr_jax.files.output import LargeFile, copy_digested
from nlsr_jax.files.paths import is_regular
from nlsr_jax.files.safetensors_files import SafetensorsFile
from nlsr_jax.formats.model_matrices import ModelMatrices
from nlsr_jax.formats.weight_files import INDEX, check_inside

Replace = Callable[[str, int], np.ndarray | None]
"""Returns what a matrix ``(module, layer)`` becomes, ``[d, k]`` in its own type; None where it stays."""

_WEIGHTS = re.compile(
    r".*\.(safetensors|bin|pt|pth|ckpt|h5|msgpack|gguf|onnx|npz|pkl|pickle)(\.index\.json)?", re.IGNORECASE
)
_RECORDS = ("realignment.json", "identification.json", "training.json", "metrics.jsonl", "report.html")


def carried_files(model: ModelMatrices) -> tuple[list[pathlib.Path], list[str]]:
    """Return the files of a model's folder that go with its weights, and the names of those left out.

    Config, tokenizer, chat template and model card go with them, and an index of shards that is read. Other
    weights, hidden files, folders, and the records of a run of this project are left out.

    Raises:
      InputError: a file that is a link out of the folder.
    """
    shards = {file.path.name for file in model.all_tensors().values()}
    found, left = [], []
    for file in sorted(model.folder.iterdir()):
        name = file.name
        if name in shards or name.startswith(".") or not is_regular(file):
            continue
        read = name == INDEX and "model.safetensors" not in shards
        if name in _RECORDS or (_WEIGHTS.fullmatch(name) and not read):
            left.append(name)
            continue
        check_inside(model.folder, name)
        found.append(file)
    return found, left


def copy_model(model: ModelMatrices, folder: pathlib.Path, replace: Replace) -> dict[str, str]:
    """Write a model's shards with some matrices replaced, and the files that go with them.

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
    for source in carried_files(model)[0]:
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
