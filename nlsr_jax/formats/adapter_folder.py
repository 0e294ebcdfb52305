"""Which program's adapter a folder holds, or what to do about a folder that holds none."""

import os
import pathlib

from nlsr_jax.errors import InputError
from nlsr_jax.files.folders import did_you_mean, elsewhere
from nlsr_jax.files.json_files import read_json_object
from nlsr_jax.files.paths import exists, expand, is_regular
from nlsr_jax.formats.companions import PATTERNS
from nlsr_jax.formats.hub import fetch, parse_hub_name

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
MLX_WEIGHTS = "adapters.safetensors"
_EXPECTED = "expected a PEFT adapter directory"
_PICKLE = (
    "holds adapter_model.bin, a pickle, which is never opened; load it with PEFT and save it again with "
    "safe_serialization=True"
)


def resolve_adapter(path: str | os.PathLike) -> pathlib.Path:
    """Return the local folder of an adapter: a folder as it is, a hub id (``ORG/NAME[@REVISION]``) downloaded.

    Raises:
      InputError: the hub cannot give it.
    """
    folder = expand(path)
    name = None if exists(folder) else parse_hub_name(path)
    return folder if name is None or "/" not in name.id else fetch(name, [CONFIG, WEIGHTS, MLX_WEIGHTS, *PATTERNS])


def kind_of_folder(path: str | os.PathLike) -> str:
    """Return whose adapter a folder holds: ``"peft"`` or ``"mlx"``.

    Raises:
      InputError: there is no such folder, or it holds no adapter; with the folder that may have been meant.
    """
    path = pathlib.Path(path)
    names = _names(path)
    if CONFIG not in names:
        raise InputError(f"{path}: {_without_config(path, names)}")
    if WEIGHTS in names and MLX_WEIGHTS not in names:
        return "peft"
    mlx = _is_mlx(path / CONFIG)
    if MLX_WEIGHTS in names and (mlx or WEIGHTS not in names):
        return "mlx"
    if WEIGHTS in names:
        return "peft"
    raise InputError(f"{path}: {_without_weights(path, names, mlx)}")


def _names(path: pathlib.Path) -> set[str]:
    try:
        return {entry.name for entry in path.iterdir()}
    except NotADirectoryError:
        raise InputError(
            f"{path}: no such folder; {_EXPECTED}; did you mean the folder of this file, {path.parent}?"
        ) from None
    except FileNotFoundError:
        raise InputError(f"{path}: no such folder; {_EXPECTED} or a hub id") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{str(path)[:200]!r}: cannot be read ({getattr(error, 'strerror', error)})") from error


def _without_config(path: pathlib.Path, names: set[str]) -> str:
    if "adapter_model.bin" in names and WEIGHTS not in names:
        return f"{_PICKLE} (its {CONFIG} is missing too)"
    text = f"{CONFIG} is missing; {_EXPECTED}"
    if WEIGHTS in names or MLX_WEIGHTS in names:
        return f"{text}; take the {CONFIG} that was saved with these weights"
    return text + elsewhere(path, (CONFIG,), "give the folder of the adapter itself")


def _without_weights(path: pathlib.Path, names: set[str], mlx: bool) -> str:
    if "adapter_model.bin" in names:
        return _PICKLE
    if mlx:
        saved = sorted(name for name in names if name.endswith(f"_{MLX_WEIGHTS}"))
        last = f"; copy its last checkpoint, {saved[-1]}, to {MLX_WEIGHTS}" if saved else ""
        old = "; adapters.npz is of an old version: save it again with MLX-LM" if "adapters.npz" in names else ""
        return f"{MLX_WEIGHTS} is missing; expected an adapter of MLX-LM{last or old}"
    return f"{WEIGHTS} is missing; {_EXPECTED}{did_you_mean(path, (WEIGHTS,))}"


def _is_mlx(config: pathlib.Path) -> bool:
    """Say whether a config is MLX-LM's; False if it cannot be read, which the caller then reports."""
    try:
        if not is_regular(config):
            return False
        raw = read_json_object(config, "adapter config")
    except InputError:
        return False
    return "peft_type" not in raw and ("lora_parameters" in raw or "fine_tune_type" in raw)
