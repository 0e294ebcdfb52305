"""Check that PEFT would find what was written; it ignores other names silently."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from nlsr_jax.adapter import Adapter
from nlsr_jax.errors import InputError
from nlsr_jax.files.safetensors_files import open_checked
from nlsr_jax.formats.adapter_folder import CONFIG, WEIGHTS
from nlsr_jax.formats.peft_carried import others_of
from nlsr_jax.formats.peft_config import parse_adapter_config
from nlsr_jax.formats.peft_file import AdapterFile, PeftLayout
from nlsr_jax.formats.peft_keys import WRAPPER, parse_key
from nlsr_jax.formats.peft_targets import Others, select_in_file
from nlsr_jax.formats.peft_writing import structure


def describes(config: Mapping[str, Any], shapes: Adapter, layout: PeftLayout) -> bool:
    """Say whether PEFT, given this config, loads an adapter correctly by the paths of the plain base.

    Args:
      config: an ``adapter_config.json`` that was read.
      shapes: the adapter, with arrays or ``jax.ShapeDtypeStruct`` leaves.
      layout: how the config's adapter was written.
    """
    expected = _structure(shapes)
    parsed = parse_adapter_config(dict(config), CONFIG)
    carried = layout.carried
    others = others_of(carried) if carried else Others()
    layers = {module: there for module, (_, there, _) in expected.items()}
    found = select_in_file(parsed, layers, layout.stack, CONFIG, others)
    if found.unselected or (carried and dict(found.carried) != dict(carried.targets)):
        return False
    return all(
        {target.rank for target in found.modules[module].values()} == {sizes[0][1]}
        and np.asarray([target.scaling for target in found.modules[module].values()], np.float32).tolist() == scales
        for module, (sizes, _, scales) in expected.items()
    )


def check_written(folder: pathlib.Path, shapes: Adapter) -> None:
    """Check the two files of an adapter as PEFT would read them.

    Args:
      folder: where they are.
      shapes: the adapter that was written.

    Raises:
      InputError: a factor's name that PEFT does not look for, or modules, layers, ranks or scalings that its rules
        do not give back.
    """
    for name in open_checked(folder / WEIGHTS).names():
        key = parse_key(name)
        if key and (not name.startswith(WRAPPER) or key.nested != 1 or key.wrappers or key.adapter):
            raise InputError(f"{folder / WEIGHTS}: tensor {name!r} is not a name that PEFT looks for")
    found, expected = _structure(AdapterFile(folder).shapes()), _structure(shapes)
    if found != expected:
        different = [module for module in {**expected, **found} if found.get(module) != expected.get(module)]
        raise InputError(
            f"{folder / CONFIG}: with this config PEFT would load {different[0]} with other layers, rank or "
            "scaling than were written; write the adapter without a layout"
        )


def _structure(adapter: Adapter) -> dict[str, Any]:
    """``structure`` with the scalings in float32, in which they are computed with."""
    found = structure(adapter)
    return {
        m: (sizes, layers, np.asarray(scales, np.float32).tolist()) for m, (sizes, layers, scales) in found.items()
    }
