"""PEFT adapter directories, both ways, without loss.

``adapter_config.json`` and ``adapter_model.safetensors`` ↔ ``Adapter``.
"""

import json
import os
import pathlib
from typing import Any

import numpy as np

from nlsr_jax.adapter import Adapter, check_adapter, layer_indices, module_names
from nlsr_jax.errors import InputError
from nlsr_jax.formats.output import whole_directory, write_text
from nlsr_jax.formats.peft_file import CONFIG, WEIGHTS, AdapterFile, PeftLayout
from nlsr_jax.formats.peft_weights import MAX_LAYERS
from nlsr_jax.formats.peft_writing import PREFIX, config_fields, peft_prefix, structure, tensor_name
from nlsr_jax.formats.safetensors_files import write_checked

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


def load_adapter(path: str | os.PathLike, config=None) -> Adapter:
    """Read a PEFT directory.

    Args:
      path: folder with ``adapter_config.json`` and ``adapter_model.safetensors``.
      config: a model's config (``load_model(…)[0].config``) that the adapter must fit; None to check the
        adapter by itself.

    Returns:
      An ``Adapter`` of host arrays in the file's float type, ranks and scalings as PEFT computes them.

    Raises:
      InputError: files that are missing or damaged, an adapter that plain LoRA factors cannot represent, or
        one that does not fit its config or the model.
    """
    file = open_adapter(path)
    if config is not None:
        from nlsr_jax.models.lora import check_adapter_fits

        check_adapter_fits(file.shapes(), config, str(path))
        file.check_layers(config.num_layers)
    return file.load()


def read_layout(path: str | os.PathLike) -> PeftLayout:
    """Return how the adapter in a PEFT directory was written; see ``save_adapter``."""
    return open_adapter(path).layout


def write_adapter_files(
    adapter: Adapter,
    folder: pathlib.Path,
    *,
    layout: PeftLayout | None = None,
    base_model_name_or_path: str | None = None,
) -> None:
    """Write the two files of a PEFT adapter into a folder that exists; see ``save_adapter``."""
    check_adapter(adapter)
    _check_writable(adapter)
    config: dict[str, Any] = dict(layout.config) if layout else dict(_NEW)
    prefix = peft_prefix(layout.prefix) if layout else PREFIX
    if layout is None or structure(adapter) != structure(layout.shapes):
        config |= config_fields(adapter, rslora=bool(config.get("use_rslora")), prefix=prefix)
    config |= {"inference_mode": True}
    if base_model_name_or_path is not None:
        config["base_model_name_or_path"] = base_model_name_or_path
    tensors = {}
    for module in module_names(adapter.factors):
        for factor, leaf in adapter.factors[module].items():
            host = np.asarray(leaf)
            for i, layer in enumerate(layer_indices(adapter, module)):
                tensors[tensor_name(prefix, layer, module, factor)] = host[i]
    write_checked(tensors, folder / WEIGHTS, {"format": "pt"})
    # Patterns keep their order: the first that matches counts.
    text = json.dumps(dict(sorted(config.items())), indent=2, allow_nan=False)
    write_text(folder / CONFIG, text + "\n")


def _check_writable(adapter: Adapter) -> None:
    """Check what an adapter in memory may hold and a file may not."""
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
    """Write an adapter as a PEFT directory, whole or not at all.

    Args:
      adapter: factors ``a [L, r, k]`` and ``b [L, d, r]``, written in their own float type.
      path: the folder.
      base_model_name_or_path: the base model that the config names.
      layout: write in the way of an adapter that was read (``read_layout``): its other config fields, its
        tensor names.
      overwrite: replace a folder that exists.

    Raises:
      InputError: the folder exists, the disk is full, or the adapter is not well-formed.
    """
    with whole_directory(path, overwrite=overwrite) as folder:
        write_adapter_files(adapter, folder, layout=layout, base_model_name_or_path=base_model_name_or_path)
