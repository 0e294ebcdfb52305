"""Hugging Face model directories ↔ parameter trees.

Every file is checked before any weight is read; weights then go from their place in the file into the stacked
arrays (or into each device's shard) one tensor at a time.
"""

import dataclasses
import functools
import json
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from nlsr_jax.architecture.config import ModelConfig, parse_model_config
from nlsr_jax.architecture.config_file import config_to_json
from nlsr_jax.architecture.nested import PREFIXES
from nlsr_jax.architecture.weights import EMBED, HEAD, Weight, weight_table
from nlsr_jax.errors import InputError
from nlsr_jax.files.folders import elsewhere
from nlsr_jax.files.json_files import read_json_object
from nlsr_jax.files.output import whole_directory, write_text
from nlsr_jax.files.ownership import foreign_model
from nlsr_jax.files.paths import check_regular, exists, expand, is_folder
from nlsr_jax.files.safetensors_files import FLOATS, SafetensorsFile, empty_aligned, write_checked
from nlsr_jax.formats.hub import fetch, parse_hub_name
from nlsr_jax.formats.quantised_names import sibling_advice
from nlsr_jax.formats.weight_files import WEIGHTS, locate
from nlsr_jax.parallel import sharding
from nlsr_jax.types import Params

CONFIG = "config.json"
_PATTERNS = ["*.json", "*.safetensors", "tokenizer*", "*.model", "*.jinja"]
_ROWS = 4096
"""Rows of embedding and head that are compared at a time."""
_IGNORED = re.compile(r"(model\.)?layers\.\d+\.self_attn\.rotary_emb\.inv_freq|(model\.)?rotary_emb\.inv_freq")


class Weights(NamedTuple):
    """The weights of a model, found and checked, their values not read yet.

    Attributes:
      config: the model's, ``tied`` as the files have it.
      table: all arrays of the parameter tree.
      files: ``{name: (file, its name there)}`` of every weight of the table.
      notes: what a user should know of files that are not in order.
    """

    config: ModelConfig
    table: list[Weight]
    files: dict[str, tuple[SafetensorsFile, str]]
    notes: tuple[str, ...]


def resolve(path: str | os.PathLike) -> pathlib.Path:
    """Return the local directory of a model: a directory as it is, a hub id (``ORG/NAME[@REVISION]``) downloaded.

    Raises:
      InputError: no such directory, and the hub cannot give it.
    """
    folder = expand(path)
    if is_folder(folder):
        check_regular(folder)
        return folder
    name = None if exists(folder) else parse_hub_name(path)
    if name is None:
        raise InputError(f"{path}: no such folder; expected a Hugging Face model directory or a hub id")
    try:
        return fetch(name, _PATTERNS)
    except InputError as error:
        raise InputError(f"{error}{sibling_advice(name.id)}") from error


def read_config(path: str | os.PathLike) -> ModelConfig:
    """Read the config of a local model directory.

    Raises:
      InputError: see ``parse_model_config``.
    """
    file = expand(path) / CONFIG
    if is_folder(file.parent) and not exists(file):
        found = elsewhere(file.parent, (CONFIG,), "give the folder of the model itself")
        raise InputError(f"{file}: no such file; expected the model config{found}")
    return parse_model_config(read_json_object(file, "model config"), str(file))


def open_weights(path: str | os.PathLike, config: ModelConfig, dtype: Any = jnp.float32) -> Weights:
    """Find the weights of a local model directory as transformers takes them, and check them.

    Args:
      path: the directory.
      config: its config. Where it ties the head to the embedding and the files hold both, they are compared, in
        ``dtype``: two that differ are both used, as transformers does.
      dtype: float type in which the weights will be read; None leaves the comparison out.

    Returns:
      ``Weights``; ``read_params`` reads them.

    Raises:
      InputError: a weight that is missing, left over, of another shape or type, or files that are damaged.
    """
    folder = expand(path)
    files, notes = locate(folder)
    config, found, odd = _settle_head(folder, _plain_names(files, config.nested), config, dtype)
    table = weight_table(config)
    found = _match_names(folder, found, table, config)
    for weight in table:
        _check_weight(weight, found)
    return Weights(config, table, found, (*notes, *odd))


def read_params(weights: Weights, dtype: Any = jnp.float32, mesh: Mesh | None = None) -> dict[str, Any]:
    """Read all weights of a model.

    Args:
      weights: from ``open_weights``.
      dtype: float type of the result.
      mesh: lay the weights out over this mesh; each device's shard is read for itself.

    Returns:
      The parameter tree of ``weights.config``.

    Raises:
      InputError: a file that can no longer be read.
    """
    params: dict[str, Any] = {}
    for weight in weights.table:
        node = params
        for name in weight.path[:-1]:
            node = node.setdefault(name, {})
        node[weight.path[-1]] = _read(weight, weights.files, jnp.dtype(dtype), mesh)
    return params


def check_weights(path: str | os.PathLike, config: ModelConfig) -> None:
    """Check all weights of a local model directory without reading their values; see ``open_weights``."""
    open_weights(path, config, None)


def _settle_head(folder, found, config: ModelConfig, dtype):
    """Return config, files and notes with the head that transformers would use beside ``tie_word_embeddings``.

    Source: ``PreTrainedModel.tie_weights``: a head that differs from the embedding is not tied to it, and a head
    without an embedding is the embedding.
    """
    if not config.tied or HEAD not in found:
        return config, found, []
    said = f"{folder / CONFIG} says tie_word_embeddings"
    if EMBED not in found:
        note = f"{said} and the files hold {HEAD} alone: it is the embedding too, as in transformers"
        return config, {EMBED: found[HEAD], **{n: f for n, f in found.items() if n != HEAD}}, [note]
    shape = (config.vocab_size, config.hidden_size)
    for name in (EMBED, HEAD):
        _check_weight(Weight((name,), (name,), shape), found)
    if dtype is None or _are_equal(found[EMBED], found[HEAD], shape[0], jnp.dtype(dtype)):
        return config, found, []
    note = f"{said}, but {HEAD} differs from {EMBED}: each is used for itself, as in transformers"
    return dataclasses.replace(config, tied=False), found, [note]


def _are_equal(one, other, count: int, dtype) -> bool:
    """Say whether two weights of so many rows are the same numbers in a float type."""
    with np.errstate(over="ignore"):
        for first in range(0, count, _ROWS):
            rows = slice(first, first + _ROWS)
            parts = [file.read_rows(own, rows).astype(dtype) for file, own in (one, other)]
            if not np.array_equal(*parts):
                return False
    return True


def _text_names(files: Mapping[str, SafetensorsFile]) -> dict[str, tuple[SafetensorsFile, str]]:
    """Return where the tensors of a language model inside another model lie, under its own names."""
    prefix = next((prefix for prefix in PREFIXES if any(name.startswith(prefix) for name in files)), None)
    found = {}
    for name, file in files.items():
        if prefix is not None and name.startswith(prefix):
            found[f"model.{name.removeprefix(prefix)}"] = file, name
        if name in (HEAD, f"language_model.{HEAD}"):
            found[HEAD] = file, name
    return found


def _plain_names(
    files: Mapping[str, SafetensorsFile], nested: bool = False
) -> dict[str, tuple[SafetensorsFile, str]]:
    """Return where every tensor lies under its name in a whole model: a bare one has no ``model.`` before it."""
    if nested and (found := _text_names(files)):
        return found
    bare = "embed_tokens.weight" in files or "norm.weight" in files
    return {(f"model.{name}" if bare and name != HEAD else name): (file, name) for name, file in files.items()}


def _match_names(folder, found, table, config) -> dict[str, tuple[SafetensorsFile, str]]:
    """Account for every tensor: return those of the table."""
    expected = {name for weight in table for name in weight.names}
    missing = sorted(expected - set(found))
    if missing == [HEAD]:
        raise InputError(
            f"{folder}: {HEAD} is missing, and {CONFIG} does not say tie_word_embeddings; transformers would make "
            "the head up at random: give the whole weights, or say so there if the embedding is the head"
        )
    if missing:
        raise InputError(f"{folder}: weight {missing[0]} is missing ({len(missing)} of {len(expected)} are)")
    allowed = {HEAD} if config.tied else set()
    extra = sorted(name for name in set(found) - expected - allowed if not _IGNORED.fullmatch(name))
    if extra:
        raise InputError(
            f"{folder}: unexpected weight {extra[0]} ({len(extra)} in all); the config does not describe this model"
        )
    return {name: found[name] for name in expected}


def _check_weight(weight: Weight, files) -> None:
    shape = weight.part
    for name in weight.names:
        file, own = files[name]
        if file.dtype(own) not in FLOATS:
            raise InputError(
                f"{file.path}: {own} has type {file.dtype(own)}; expected floats, as {CONFIG} names no "
                "quantisation of it"
            )
        if file.shape(own) != shape:
            raise InputError(f"{file.path}: {own} is {list(file.shape(own))}; the config says {list(shape)}")


def _read(weight: Weight, files, dtype, mesh):
    @functools.lru_cache(maxsize=1)  # devices that follow each other may hold the same
    def read_shard(bounds):
        return read_part(weight, files, dtype, bounds)

    def callback(index):
        return read_shard(tuple(part.indices(size)[:2] for part, size in zip(index, weight.shape, strict=True)))

    if mesh is None:
        return jax.device_put(callback((slice(None),) * len(weight.shape)))
    layout = sharding(mesh, weight.path, weight.shape)
    return jax.make_array_from_callback(weight.shape, layout, callback)


def read_part(
    weight: Weight,
    files: Mapping[str, tuple[SafetensorsFile, str]],
    dtype: Any,
    bounds: Sequence[tuple[int, int]],
) -> np.ndarray:
    """Read a part of one array of the parameter tree, one tensor of the files at a time.

    Args:
      weight: the array.
      files: of ``Weights``.
      dtype: float type of the result.
      bounds: ``(first, last)`` of every axis, the last excluded.

    Raises:
      InputError: a file that can no longer be read.
    """
    names = np.array(weight.names, object).reshape(weight.shape[: weight.axes])
    index = tuple(slice(*part) for part in bounds)
    out = empty_aligned(tuple(last - first for first, last in bounds), dtype)
    first, *rest = index[weight.axes :]
    for place, name in np.ndenumerate(names[index[: weight.axes]]):
        file, own = files[name]
        out[place][...] = file.read_rows(own, first)[(slice(None), *rest)]
    return out


def save_params(params: Params, config: ModelConfig, path: str | os.PathLike, *, overwrite: bool = False) -> None:
    """Write a Hugging Face model directory that transformers loads, whole or not at all.

    Args:
      params: the parameter tree.
      config: its config.
      path: the directory.
      overwrite: replace a directory that exists, if this function or a command has written it.

    Raises:
      InputError: the directory exists, is another's or cannot be written.
    """
    tensors: dict[str, np.ndarray] = {}
    for weight in weight_table(config):
        node = params
        for name in weight.path:
            node = node[name]
        host = np.asarray(node)
        parts = host.reshape(-1, *weight.part)
        tensors |= dict(zip(weight.names, parts, strict=True))
    with whole_directory(path, overwrite=overwrite, foreign=foreign_model) as folder:
        write_checked(tensors, folder / WEIGHTS, {"format": "pt"})
        write_text(folder / CONFIG, json.dumps(config_to_json(config), indent=2) + "\n")
