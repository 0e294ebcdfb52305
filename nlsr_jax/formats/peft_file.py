"""An open PEFT adapter directory: its structure is checked against its config, its factors are read on demand."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from nlsr_jax.adapter import Adapter, module_names
from nlsr_jax.errors import InputError
from nlsr_jax.files.json_files import read_json_object
from nlsr_jax.files.safetensors_files import open_checked
from nlsr_jax.formats.adapter_folder import CONFIG, MLX_WEIGHTS, WEIGHTS, kind_of_folder, resolve_adapter
from nlsr_jax.formats.mlx import find_mlx_factors, note_of_mlx, plain_config
from nlsr_jax.formats.peft_carried import Carried, find_carried, others_of
from nlsr_jax.formats.peft_carried_checks import check_carried, note_of
from nlsr_jax.formats.peft_config import LoraConfig, notes_of_kind, parse_adapter_config
from nlsr_jax.formats.peft_extras import Extras
from nlsr_jax.formats.peft_keys import WRAPPER, Stack
from nlsr_jax.formats.peft_parameters import ExpertsFile
from nlsr_jax.formats.peft_targets import InFile, Others, Target, rank_rule, select_in_file, select_targets
from nlsr_jax.formats.peft_weights import (
    StackedKeys,
    check_no_others,
    check_pairs,
    find_factors,
    layer_ranks,
    note_of_ranks,
    read_stack,
    stacked_dtype,
    stacked_shapes,
)
from nlsr_jax.modules import MODULES


@dataclasses.dataclass(frozen=True)
class PeftLayout:
    """How an adapter was written, so that it can be written back in the same way.

    Attributes:
      config: the whole ``adapter_config.json``.
      stack: the list of layers, as the plain base names it.
      shapes: the adapter's structure, with ``jax.ShapeDtypeStruct`` leaves.
      carried: what its file holds beside; read from there again when it is written.
    """

    config: dict[str, Any]
    stack: Stack
    shapes: Adapter
    carried: Carried | None = None

    @property
    def prefix(self) -> str:
        """What stands before the list of layers in the tensor names that PEFT looks for."""
        return f"{WRAPPER}{self.stack.prefix}"


class AdapterFile:
    """An open PEFT directory: the structure is read at once, factors on demand.

    Args:
      path: the directory, of PEFT or MLX-LM, or a hub id with or without ``@REVISION``.

    Raises:
      InputError: see ``load_adapter``; all but the values is checked here.

    Attributes:
      path: the directory.
      files: the names of its files.
      layout: how it is to be written.
      carried: what it holds beside the factors of decoder layers.
      notes: what a user should know, such as target names that match nothing.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = path = resolve_adapter(path)
        mlx = kind_of_folder(path) == "mlx"
        self._where = str(path / CONFIG)
        self.files = (CONFIG, MLX_WEIGHTS if mlx else WEIGHTS)
        raw = read_json_object(path / CONFIG, "adapter config")
        config = None if mlx else parse_adapter_config(raw, self._where)
        self._file = open_checked(path / self.files[1])
        if config is not None and config.parameters:
            self._file = ExpertsFile(self._file, config.parameters, rank_rule(config, self._where))
        self._found = find_mlx_factors(self._file) if mlx else find_factors(self._file)
        if config is None:
            check_no_others(self._file, self._found.others)
            self.carried = Carried(self._file, [], self._found.stack, Extras())
        else:
            self.carried = find_carried(self._file, self._found, config.extras)
        check_pairs(self._file, self._found)
        shapes = stacked_shapes(self._file, self._found)
        if config is None:
            raw = plain_config(raw, shapes, self._found, self._where)
            config = parse_adapter_config(raw, self._where)
        self._config = config
        selected, self._matched = _select(config, self._found, self._where, others_of(self.carried))
        check_carried(self.carried, selected)
        self.carried.targets = selected.carried
        ranks = layer_ranks(self._file, self._found)
        _check_against_config(self._file.path, ranks, selected)
        about = [note_of_mlx(raw)] if mlx else [*self._found.notes, *notes_of_kind(raw)]
        self.notes = [f"{path}: {note}" for note in [*about, *note_of_ranks(ranks), *_notes_of_absent(selected)]]
        if self.carried:
            self.carried.note = note_of(self.carried, str(path))
            self.notes.append(self.carried.note)
        factors = {
            module: {
                f: jax.ShapeDtypeStruct(shape, stacked_dtype(self._file, self._found.keys[module], f))
                for f, shape in pair.items()
            }
            for module, pair in shapes.items()
        }
        self._shapes = Adapter(factors, _scaling(selected.modules), _layers(config, selected.modules))
        self.layout = PeftLayout(raw, self._found.stack, self._shapes, self.carried or None)

    def notes_of_source(self) -> list[str]:
        """Return the notes on an adapter that is read and not written."""
        unwritten = note_of(self.carried, str(self.path), written=False) if self.carried else ""
        return [unwritten if note == self.carried.note else note for note in self.notes]

    def check_layers(self, num_layers: int, modules: Sequence[str] = MODULES) -> None:
        """Check that every layer that the config adapts in a model is in the file.

        Args:
          num_layers: of the model.
          modules: the projections of its decoder layers.

        Raises:
          InputError: naming the first that is not.
        """
        others = others_of(self.carried)
        prefix = self._matched.prefix
        expected, _ = select_targets(self._config, num_layers, self._where, prefix, others, modules)
        for module in module_names({**expected, **self._found.keys}):
            there, adapted = (set(layers.get(module, ())) for layers in (self._found.keys, expected))
            if adapted - there:
                raise InputError(
                    f"{self._file.path}: no factors of layer {min(adapted - there)} {module}, which the base has "
                    "and the config adapts; the file is incomplete or the config belongs to another adapter"
                )
            if there - adapted:
                raise InputError(
                    f"{self._file.path}: holds factors of layer {min(there - adapted)} {module}, which a base of "
                    f"{num_layers} layers does not have; the adapter belongs to another base"
                )

    def shapes(self) -> Adapter:
        """Return the adapter with ``jax.ShapeDtypeStruct`` leaves."""
        return dataclasses.replace(self._shapes, factors=dict(self._shapes.factors))

    def factors(self, module: str, rows: slice = slice(None)) -> dict[str, np.ndarray]:
        """Read the factors of one module name, ``rows`` of the leading axis: ``{"a", "b"}``.

        Raises:
          InputError: an entry that is NaN or infinite.
        """
        layers = self._found.keys[module]
        return {f: read_stack(self._file, layers, f, rows, self._found.transposed) for f in ("a", "b")}

    def load(self) -> Adapter:
        """Read the whole adapter."""
        return dataclasses.replace(self._shapes, factors={m: self.factors(m) for m in self._found.keys})


def _select(config: LoraConfig, found: StackedKeys, where: str, others: Others) -> tuple[InFile, Stack]:
    """Apply the config to the modules of the file; also return the list of layers that gave their paths.

    A nested model was trained with the paths that its names have; else they are those of the plain base.
    """
    if found.nested:
        nested = found.stack._replace(prefix=WRAPPER * found.nested + found.stack.prefix)
        selected = select_in_file(config, found.keys, nested, where, others)
        if not selected.unselected:
            return selected, nested
    return select_in_file(config, found.keys, found.stack, where, others), found.stack


def _check_against_config(where, ranks: dict[str, dict[int, int]], selected: InFile) -> None:
    if selected.unselected:
        module, layer = selected.unselected
        raise InputError(
            f"{where}: holds factors of layer {layer} {module}, which the config does not adapt; the config "
            "belongs to another adapter"
        )
    for module, per_layer in ranks.items():
        for layer, target in selected.modules[module].items():
            rank = per_layer[layer]
            if rank != target.rank:
                raise InputError(
                    f"{where}: layer {layer} {module} has rank {rank}, the config says {target.rank}; correct r or "
                    "rank_pattern, or take the config that was saved with these weights"
                )


def _notes_of_absent(selected: InFile) -> list[str]:
    """Return notes on what the config names and the file lacks, which is right if the base lacks it too."""
    what = "of which the file has no factors: right where the base has none there either, else it is incomplete"
    notes = [f"target_modules names {_shown(selected.unmatched)}, {what}"] if selected.unmatched else []
    together: dict[tuple[int, ...], list[str]] = {}
    for module, layers in selected.absent.items():
        if module in selected.modules or not selected.unmatched:
            together.setdefault(layers, []).append(module)
    for layers, modules in together.items():
        notes.append(f"the config names {_shown(modules)} of layers {_shown(layers)}, {what}")
    return notes


def _shown(names: Sequence[Any]) -> str:
    texts = [str(name) if str(name).isprintable() else repr(name) for name in names[:12]]
    return ", ".join(text[:60] for text in texts) + (f" and {len(names) - 12} more" if len(names) > 12 else "")


def _scaling(targets: dict[str, dict[int, Target]]):
    """Return one float if all agree, else one per module name, else one per layer."""
    values = {m: tuple(t.scaling for t in layers.values()) for m, layers in targets.items()}
    distinct = {v for per_layer in values.values() for v in per_layer}
    if len(distinct) == 1:
        return distinct.pop()
    return {m: v[0] if len(set(v)) == 1 else v for m, v in values.items()}


def _layers(config: LoraConfig, targets: dict[str, dict[int, Target]]):
    """Return None if the config selects by module names alone (every layer), else the layers of each module."""
    layers = {m: tuple(sorted(per_layer)) for m, per_layer in targets.items()}
    count = 1 + max(layer for per_layer in layers.values() for layer in per_layer)
    lists = [config.exclude] if config.all_linear else [config.targets, config.exclude]
    by_name = all(isinstance(names, tuple) and not any("." in n for n in names) for names in lists)
    whole = all(per_layer == tuple(range(count)) for per_layer in layers.values())
    every = by_name and config.layers is None and whole
    return None if every else layers
