"""Directions that were factored before, kept in a folder by what they were factored from.

The direction of an alignment is the same for every adapter on its model. A file is named by the digest of all that
determines its bytes: the models' files, rank, modules, seed, and the library and device that computed it.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import tempfile
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from nlsr_jax.adapter import Adapter
from nlsr_jax.errors import InputError
from nlsr_jax.files.safetensors_files import open_checked, write_checked
from nlsr_jax.nlsr.direction import Direction

_VERSION = 1
"""Raised whenever the computation changes."""
_ENTRY = "direction"


class Kept(NamedTuple):
    """A direction, and what a user should know of where it came from.

    Attributes:
      direction: V in factors.
      told: one line.
    """

    direction: Direction
    told: str


def describe_direction(
    files: Mapping[str, Mapping[str, str]], *, rank: int, modules: tuple[str, ...], seed: int = 0
) -> dict[str, Any]:
    """Return all that determines the bytes of a direction.

    Args:
      files: ``{"base" or "pretrained": {file name: sha256}}``.
      rank, modules, seed: see ``safety_direction``.
    """
    device = jax.devices()[0]
    return {
        "version": _VERSION,
        "files": {name: dict(sorted(digests.items())) for name, digests in sorted(files.items())},
        "rank": rank,
        "modules": sorted(modules),
        "seed": seed,
        "jax": jax.__version__,
        "device": f"{device.platform} {device.device_kind}",
    }


def obtain_direction(folder: str | os.PathLike, what: Mapping[str, Any], make: Callable[[], Direction]) -> Kept:
    """Return a direction from the cache, or make it and keep it there.

    Args:
      folder: of the cache; made where it does not exist.
      what: from ``describe_direction``.
      make: factors the direction.

    A file that is damaged is replaced. A folder that cannot be written to is no reason to stop.
    """
    text = json.dumps(what, sort_keys=True)
    path = pathlib.Path(folder) / f"direction-{hashlib.sha256(text.encode()).hexdigest()[:32]}.safetensors"
    why = ""
    if path.exists():
        try:
            return Kept(_read(path, text), f"taken from {path}")
        except (InputError, OSError, ValueError, KeyError) as error:
            why = f"{path} is damaged ({' '.join(str(error).split())[:200]}): "
    made = make()
    try:
        _write(path, text, made)
    except OSError as error:
        return Kept(made, f"{why}factored, and not kept: {path} cannot be written ({error.strerror or error})")
    return Kept(made, f"{why}factored, and kept in {path}")


def _read(path: pathlib.Path, text: str) -> Direction:
    file = open_checked(path)
    tensors = {name: file.read(name) for name in file.names()}
    told = json.loads(file.metadata.get(_ENTRY, "{}"))
    if told.get("what") != text:
        raise InputError("it is of other models or settings")
    if told.get("sha256") != _digest(tensors):
        raise InputError("its numbers are not those that were written")
    factors: dict[str, dict[str, np.ndarray]] = {}
    residual = {}
    for module in json.loads(text)["modules"]:
        factors[module] = {factor: tensors[f"{module}.{factor}"] for factor in ("a", "b")}
        residual[module] = tensors[f"{module}.residual"]
    return Direction(Adapter(factors), residual)


def _write(path: pathlib.Path, text: str, made: Direction) -> None:
    tensors: dict[str, np.ndarray] = {}
    for module, leaf in made.adapter.factors.items():
        tensors |= {f"{module}.{factor}": np.asarray(leaf[factor]) for factor in ("a", "b")}
        tensors[f"{module}.residual"] = np.asarray(made.residual[module])
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".direction-", suffix=".partial")
    os.close(handle)
    try:
        write_checked(tensors, name, {_ENTRY: json.dumps({"what": text, "sha256": _digest(tensors)})})
        pathlib.Path(name).replace(path)
    finally:
        with contextlib.suppress(OSError):
            pathlib.Path(name).unlink(missing_ok=True)


def _digest(tensors: Mapping[str, np.ndarray]) -> str:
    found = hashlib.sha256()
    for name in sorted(tensors):
        value = np.ascontiguousarray(tensors[name])
        found.update(f"{name} {value.dtype} {value.shape} ".encode())
        found.update(value.reshape(-1).view(np.uint8).data)
    return found.hexdigest()
