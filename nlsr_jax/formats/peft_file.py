"""One PEFT adapter directory, opened: its structure checked against its config, its factors on demand."""

import dataclasses
import os
import pathlib
from typing import Any

import jax
import numpy as np

from nlsr_jax.adapter import Adapter, module_names
from nlsr_jax.errors import InputError
from nlsr_jax.formats.json_files import read_json_object
from nlsr_jax.formats.paths import expand
from nlsr_jax.formats.peft_config import LoraConfig, parse_adapter_config
from nlsr_jax.formats.peft_targets import Target, select_targets
from nlsr_jax.formats.peft_weights import find_factors, read_stack, stacked_dtype, stacked_shapes
from nlsr_jax.formats.peft_writing import model_prefix
from nlsr_jax.formats.safetensors_files import open_checked

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"


@dataclasses.dataclass(frozen=True)
class PeftLayout:
    """How an adapter was written, so that it can be written back in the same way.

    Attributes:
      config: the whole ``adapter_config.json``.
      prefix: what stands before ``layers`` in the tensor names.
      shapes: the adapter's structure, with ``jax.ShapeDtypeStruct`` leaves.
    """

    config: dict[str, Any]
    prefix: str
    shapes: Adapter


class AdapterFile:
    """An open PEFT directory: structure at once, factors when they are asked for.

    Args:
      path: the directory.

    Raises:
      InputError: see ``load_adapter``; all but the values is checked here.

    Attributes:
      layout: how it was written.
      notes: what a user should know, such as target names that match nothing.
    """

    def __init__(self, path: str | os.PathLike):
        path = expand(path)
        _check_directory(path)
        raw = read_json_object(path / CONFIG, "adapter config")
        config = self._config = parse_adapter_config(raw, str(path / CONFIG))
        self._where = str(path / CONFIG)
        self._file = open_checked(path / WEIGHTS)
        self._found = find_factors(self._file)
        shapes = stacked_shapes(self._file, self._found)
        count = 1 + max(layer for layers in self._found.keys.values() for layer in layers)
        targets, unmatched = self._targets(count)
        _check_against_config(self._file.path, shapes, self._found.keys, targets)
        self.notes = [f"{path}: target_modules names {name}, which the model does not have" for name in unmatched]
        factors = {
            module: {
                f: jax.ShapeDtypeStruct(shape, stacked_dtype(self._file, self._found.keys[module], f))
                for f, shape in pair.items()
            }
            for module, pair in shapes.items()
        }
        self._shapes = Adapter(factors, _scaling(targets), _layers(config, targets))
        self.layout = PeftLayout(raw, self._found.prefix, self._shapes)

    def _targets(self, num_layers: int):
        return select_targets(self._config, num_layers, self._where, model_prefix(self._found.prefix))

    def check_layers(self, num_layers: int) -> None:
        """Check that every layer that the config adapts in a model of ``num_layers`` is in the file.

        Raises:
          InputError: naming the first that is not.
        """
        shapes = {m: {f: leaf.shape for f, leaf in pair.items()} for m, pair in self._shapes.factors.items()}
        targets, _ = self._targets(num_layers)
        _check_against_config(self._file.path, shapes, self._found.keys, targets)

    def shapes(self) -> Adapter:
        """Return the adapter with ``jax.ShapeDtypeStruct`` leaves."""
        return dataclasses.replace(self._shapes, factors=dict(self._shapes.factors))

    def factors(self, module: str, rows: slice = slice(None)) -> dict[str, np.ndarray]:
        """Read the factors of one module name, ``rows`` of the leading axis: ``{"a", "b"}``.

        Raises:
          InputError: an entry that is NaN or infinite.
        """
        layers = self._found.keys[module]
        return {f: read_stack(self._file, layers, f, rows) for f in ("a", "b")}

    def load(self) -> Adapter:
        """Read the whole adapter."""
        return dataclasses.replace(self._shapes, factors={m: self.factors(m) for m in self._found.keys})


def _check_directory(path: pathlib.Path) -> None:
    try:
        names = {entry.name for entry in path.iterdir()}
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{path}: no such folder; expected a PEFT adapter directory") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{str(path)[:200]!r}: cannot be read ({getattr(error, 'strerror', error)})") from error
    if WEIGHTS not in names and "adapter_model.bin" in names:
        raise InputError(
            f"{path}: holds adapter_model.bin, a pickle, which is never opened; load it with PEFT and save it "
            "again with safe_serialization=True"
        )
    if CONFIG not in names:
        raise InputError(f"{path}: {CONFIG} is missing; expected a PEFT adapter directory")
    if WEIGHTS not in names:
        raise InputError(f"{path}: {WEIGHTS} is missing; expected a PEFT adapter directory")


def _check_against_config(where, shapes, keys, targets: dict[str, dict[int, Target]]) -> None:
    for module in module_names({**keys, **targets}):
        missing = sorted(set(targets.get(module, {})) - set(keys.get(module, {})))
        extra = sorted(set(keys.get(module, {})) - set(targets.get(module, {})))
        if missing:
            raise InputError(
                f"{where}: no factors of layer {missing[0]} {module}, which the config adapts; the file is "
                "incomplete or the config belongs to another adapter"
            )
        if extra:
            raise InputError(
                f"{where}: holds factors of layer {extra[0]} {module}, which the config does not adapt; the config "
                "belongs to another adapter"
            )
        for layer, target in targets[module].items():
            rank = shapes[module]["a"][1]
            if rank != target.rank:
                raise InputError(
                    f"{where}: layer {layer} {module} has rank {rank}, the config says {target.rank}; correct r or "
                    "rank_pattern, or take the config that was saved with these weights"
                )


def _scaling(targets: dict[str, dict[int, Target]]):
    """One float where all agree, else one per module name, else one per layer."""
    values = {m: tuple(t.scaling for t in layers.values()) for m, layers in targets.items()}
    distinct = {v for per_layer in values.values() for v in per_layer}
    if len(distinct) == 1:
        return distinct.pop()
    return {m: v[0] if len(set(v)) == 1 else v for m, v in values.items()}


def _layers(config: LoraConfig, targets: dict[str, dict[int, Target]]):
    """None where the config goes by module names alone (every layer), else the layers of each module."""
    layers = {m: tuple(sorted(per_layer)) for m, per_layer in targets.items()}
    lists = [config.exclude] if config.all_linear else [config.targets, config.exclude]
    by_name = all(isinstance(names, tuple) and not any("." in n for n in names) for names in lists)
    every = by_name and config.layers is None and len(set(layers.values())) == 1
    return None if every else layers
