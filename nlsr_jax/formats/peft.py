"""Read and write PEFT adapter directories without loss.

``adapter_config.json`` and ``adapter_model.safetensors`` ↔ ``Adapter``. Adapters of MLX-LM are read as well.
"""

import json
import logging
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from nlsr_jax.adapter import Adapter, check_adapter, layer_indices, module_names
from nlsr_jax.architecture.config import ModelConfig
from nlsr_jax.errors import InputError
from nlsr_jax.files.output import whole_directory, write_text
from nlsr_jax.files.ownership import foreign_adapter
from nlsr_jax.files.paths import exists
from nlsr_jax.formats.adapter_folder import CONFIG, WEIGHTS
from nlsr_jax.formats.peft_carried import Carried
from nlsr_jax.formats.peft_carried_writing import Passage, path_fields
from nlsr_jax.formats.peft_checking import check_written, describes
from nlsr_jax.formats.peft_file import AdapterFile, PeftLayout
from nlsr_jax.formats.peft_keys import Stack
from nlsr_jax.formats.peft_parameters_writing import ExpertsWriter, evened
from nlsr_jax.formats.peft_weights import MAX_LAYERS
from nlsr_jax.formats.peft_writing import PLAIN_STACK, config_fields, structure, tensor_name

_LOG = logging.getLogger(__name__)
_DTYPES = ("float32", "float16", "bfloat16")
_NEW = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "base_model_name_or_path": None,
    "bias": "none",
    "lora_dropout": 0.0,
    "fan_in_fan_out": False,
    "modules_to_save": None,
}


def open_adapter(path: str | os.PathLike) -> AdapterFile:
    """Open a PEFT directory without reading its values; see ``AdapterFile``."""
    return AdapterFile(path)


def load_adapter(path: str | os.PathLike, config: ModelConfig | None = None) -> Adapter:
    """Read a PEFT directory, or one of MLX-LM; what a user should know of it is logged as a warning.

    Args:
      path: folder with ``adapter_config.json`` and ``adapter_model.safetensors`` (or ``adapters.safetensors``).
      config: a model's config (``load_model(…)[0].config``) that the adapter must fit; None to check the
        adapter by itself.

    Returns:
      An ``Adapter`` of host arrays in the file's float type, ranks and scalings as PEFT computes them.

    Raises:
      InputError: files that are missing or damaged, an adapter that plain LoRA factors cannot represent, or
        one that does not fit its config or the model.
    """
    file = open_fitting(path, config)
    if file.carried:
        _LOG.warning("note: %s: the factors alone are loaded; see load_carried and apply_carried", path)
    return file.load()


def open_fitting(path: str | os.PathLike, config: ModelConfig | None = None) -> AdapterFile:
    """Open a directory as ``load_adapter`` does, checked against a model and with its notes logged."""
    file = open_adapter(path)
    if config is not None:
        from nlsr_jax.architecture.fit import check_adapter_fits
        from nlsr_jax.formats.carried_fit import check_carried_fits

        check_adapter_fits(file.shapes(), config, str(path))
        file.check_layers(config.num_layers, tuple(config.adaptable()))
        check_carried_fits(file.carried, config)
    for note in [*file.notes, *_notes_of_place(path, file.layout.stack)]:
        _LOG.warning("note: %s", note)
    return file


def load_carried(path: str | os.PathLike) -> Carried:
    """Return what a PEFT directory holds besides the factors of decoder layers, which an ``Adapter`` cannot hold.

    That is factors or copies of embedding and output head, rows of single tokens, biases and norms that were
    trained, and tensors of other towers. ``apply_carried`` puts it into a model, ``save_adapter`` with the
    directory's layout writes it again. It is false where there is nothing of the kind.

    Raises:
      InputError: see ``load_adapter``.
    """
    return open_adapter(path).carried


def _notes_of_place(path: str | os.PathLike, stack: Stack) -> list[str]:
    """Say what an ``Adapter`` does not hold: where in the base its layers are, if not where they mostly are."""
    if stack == PLAIN_STACK:
        return []
    return [
        f"{path}: its layers are in {stack.prefix}{stack.name} of the base; write it with "
        "layout=nlsr_jax.formats.peft.read_layout(path), else PEFT finds none of them"
    ]


def read_layout(path: str | os.PathLike) -> PeftLayout:
    """Return how the adapter in a PEFT directory was written; see ``save_adapter``."""
    return open_adapter(path).layout


class AdapterWriter:
    """The two files of a PEFT adapter, written a few layers at a time; see ``save_adapter``.

    Args:
      shapes: the adapter, with arrays or ``jax.ShapeDtypeStruct`` leaves.
      folder: a folder that exists and holds neither file.
      layout: write in the way of an adapter that was read, with what is carried from its file.
      base_model_name_or_path: the base model that the config names.
      made: how the adapter came about, for the message where its numbers cannot be written.

    Raises:
      InputError: when the block ends, names in the file that PEFT would not look for by the config.
    """

    def __init__(
        self,
        shapes: Adapter,
        folder: pathlib.Path,
        *,
        layout: PeftLayout | None = None,
        base_model_name_or_path: str | None = None,
        made: str = "",
    ):
        check_adapter(shapes)
        _check_writable(shapes)
        shapes = evened(shapes)
        for name in (CONFIG, WEIGHTS):
            if exists(folder / name):
                raise InputError(f"{folder / name}: exists; write into another folder")
        self._made = made
        config: dict[str, Any] = dict(layout.config) if layout else dict(_NEW)
        stack = layout.stack if layout else PLAIN_STACK
        carried = layout.carried if layout else None
        if layout is None or structure(shapes) != structure(layout.shapes) or not describes(config, shapes, layout):
            rslora = bool(config.get("use_rslora"))
            config.pop("target_parameters", None)
            if carried and carried.targets:
                config |= path_fields(shapes, carried, rslora=rslora)
            else:
                config |= config_fields(shapes, rslora=rslora, stack=stack)
        config |= {"inference_mode": True}
        if base_model_name_or_path is not None:
            config["base_model_name_or_path"] = base_model_name_or_path
        # Patterns keep their order: the first that matches counts.
        write_text(folder / CONFIG, json.dumps(dict(sorted(config.items())), indent=2, allow_nan=False) + "\n")
        tensors: dict[str, tuple[np.dtype, tuple[int, ...]]] = carried.layout() if carried else {}
        self._names: dict[tuple[str, str], list[str]] = {}
        for module in module_names(shapes.factors):
            for factor, leaf in shapes.factors[module].items():
                layers = layer_indices(shapes, module)
                names = self._names[module, factor] = [tensor_name(stack, i, module, factor) for i in layers]
                tensors |= {name: (np.dtype(leaf.dtype), leaf.shape[1:]) for name in names}
        self._shapes, self._folder = shapes, folder
        self._file = ExpertsWriter(folder / WEIGHTS, tensors, {"format": "pt"})
        self._passage = Passage(carried, self._file)

    def write(self, module: str, factors: Mapping[str, Any], rows: slice = slice(None)) -> None:
        """Write ``rows`` of the leading axis of one module's factors ``{"a", "b"}``.

        Raises:
          InputError: an entry that is NaN or infinite.
        """
        layers = layer_indices(self._shapes, module)[rows]
        for factor, leaf in factors.items():
            names, host = self._names[module, factor][rows], np.asarray(leaf)
            for layer, name, value in zip(layers, names, host, strict=True):
                self._passage.until(name)
                what = f"adapter: layer {layer} {module}.{factor}"
                self._file.write(name, value, what=what, made=self._made)

    def order(self) -> list[tuple[str, int]]:
        """Return ``(module, row of the leading axis)`` of every layer in the order of the file."""
        place = {name: i for i, name in enumerate(self._file.names())}
        first = {
            (module, row): place[name]
            for (module, factor), names in self._names.items()
            if factor == "a"
            for row, name in enumerate(names)
        }
        return sorted(first, key=first.__getitem__)

    def digests(self) -> dict[str, str]:
        """Return the SHA-256 of the weights by file name, once the block has ended."""
        return {WEIGHTS: self._file.sha256()}

    def __enter__(self) -> "AdapterWriter":
        return self

    def __exit__(self, kind: Any = None, *error: Any) -> None:
        try:
            if kind is None:
                self._passage.until()
        finally:
            self._file.__exit__(kind, *error)
        if kind is None:
            check_written(self._folder, self._shapes)


def write_adapter_files(
    adapter: Adapter,
    folder: pathlib.Path,
    *,
    layout: PeftLayout | None = None,
    base_model_name_or_path: str | None = None,
) -> None:
    """Write the two files of a PEFT adapter into a folder that exists; see ``save_adapter``."""
    with AdapterWriter(adapter, folder, layout=layout, base_model_name_or_path=base_model_name_or_path) as writer:
        for module, factors in adapter.factors.items():
            writer.write(module, factors)


def _check_writable(adapter: Adapter) -> None:
    """Refuse what an adapter in memory may hold and a file may not."""
    for module in module_names(adapter.factors):
        for factor, leaf in adapter.factors[module].items():
            if str(leaf.dtype) not in _DTYPES:
                raise InputError(
                    f"adapter: {module}.{factor} has type {leaf.dtype}; expected one of {', '.join(_DTYPES)}"
                )
        layers = layer_indices(adapter, module)
        if list(layers) != sorted(set(layers)) or not 0 <= layers[0] <= layers[-1] < MAX_LAYERS:
            raise InputError(
                f"adapter: layers[{module!r}] is {list(layers)[:20]}; expected rising numbers from 0 to "
                f"{MAX_LAYERS - 1}"
            )


def save_adapter(
    adapter: Adapter,
    path: str | os.PathLike,
    *,
    base_model_name_or_path: str | None = None,
    layout: PeftLayout | None = None,
    overwrite: bool = False,
) -> None:
    """Write an adapter as a PEFT directory, complete or not at all.

    Args:
      adapter: factors ``a [L, r, k]`` and ``b [L, d, r]``, written in their own float type.
      path: the folder.
      base_model_name_or_path: the base model that the config names.
      layout: write in the way of an adapter that was read (``read_layout``): its other config fields, its
        tensor names, and what its file holds beside the factors of decoder layers, copied from there.
      overwrite: replace a folder that exists, if this function or a command has written it.

    Raises:
      InputError: the folder exists or is another's, the disk is full, or the adapter is not well-formed or holds
        entries that are NaN or infinite. Nothing is written then.
    """
    with whole_directory(path, overwrite=overwrite, foreign=foreign_adapter) as folder:
        write_adapter_files(adapter, folder, layout=layout, base_model_name_or_path=base_model_name_or_path)
