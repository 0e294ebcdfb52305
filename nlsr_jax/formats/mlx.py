"""Adapters of MLX-LM, read as PEFT would hold them: factors transposed, the scale as ``lora_alpha / r``.

``adapters.safetensors`` holds ``model.layers.0.self_attn.q_proj.lora_a [k, r]`` and ``lora_b [r, d]``; the layer
adds ``scale · (x a) b``.

Source: MLX-LM, ``tuner/lora.py`` and ``tuner/utils.py``.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from nlsr_jax.adapter import Adapter
from nlsr_jax.errors import InputError
from nlsr_jax.files.fields import factor, short, unexpected, whole
from nlsr_jax.files.safetensors_files import SafetensorsFile
from nlsr_jax.formats.peft_keys import WRAPPER
from nlsr_jax.formats.peft_weights import StackedKeys, find_factors
from nlsr_jax.formats.peft_writing import config_fields

_FACTOR = re.compile(r"(?P<path>.+)\.lora_(?P<factor>[ab])")
_MAGNITUDE = re.compile(r".+\.m")
CONVERT = (
    "fuse it with mlx_lm.fuse --dequantize and take the result as a full model, or extract a plain LoRA from "
    "(fused weights - base weights) by a truncated SVD"
)


class _Renamed:
    """An open file whose factors have the names that PEFT gives them."""

    def __init__(self, file: SafetensorsFile):
        self.path = file.path
        self.original = {self._plain(name): name for name in file.names()}

    @staticmethod
    def _plain(name: str) -> str:
        match = _FACTOR.fullmatch(name)
        return f"{WRAPPER}{match['path']}.lora_{match['factor'].upper()}.weight" if match else name

    def names(self) -> tuple[str, ...]:
        return tuple(sorted(self.original))


def find_mlx_factors(file: SafetensorsFile) -> StackedKeys:
    """Sort the tensors of an MLX-LM adapter into factors; see ``find_factors``.

    Raises:
      InputError: a tensor that is not a plain factor of a linear layer of a decoder layer.
    """
    for name in file.names():
        if _MAGNITUDE.fullmatch(name):
            raise InputError(f"{file.path}: tensor {name[:120]!r} is a DoRA magnitude; {CONVERT}")
        if _FACTOR.fullmatch(name) and len(file.shape(name)) == 3:
            raise InputError(
                f"{file.path}: tensor {name[:120]!r} is one factor for all experts of a layer, not a matrix; "
                f"{CONVERT}"
            )
        if not _FACTOR.fullmatch(name):
            raise InputError(
                f"{file.path}: tensor {name[:120]!r} is not a LoRA factor (lora_a, lora_b) but a weight "
                f"that was trained whole; {CONVERT}"
            )
    renamed = _Renamed(file)
    found = find_factors(renamed)  # type: ignore[arg-type]
    keys = {
        module: {layer: {f: renamed.original[name] for f, name in pair.items()} for layer, pair in layers.items()}
        for module, layers in found.keys.items()
    }
    for name in found.others:
        raise InputError(
            f"{file.path}: tensor {renamed.original[name][:120]!r} is not a factor of a linear layer of a decoder "
            f"layer; {CONVERT}"
        )
    return found._replace(keys=keys, transposed=True, nested=0, notes=())


def plain_config(raw: Mapping[str, Any], shapes, found: StackedKeys, where: str) -> dict[str, Any]:
    """Return the ``adapter_config.json`` with which PEFT computes the same as MLX-LM.

    Args:
      raw: the config of MLX-LM.
      shapes: ``{module: {"a": (L, r, k), "b": (L, d, r)}}`` of the factors.
      found: where the factors are.
      where: the config's file, for messages.

    Raises:
      InputError: a kind of fine-tuning that plain factors cannot hold, or a config that does not fit the factors.
    """
    kind = raw.get("fine_tune_type", "dora" if raw.get("use_dora") else "lora")
    if kind != "lora":
        reason = {
            "dora": "DoRA rescales the base weights, which factors alone cannot hold",
            "full": "all weights were trained, so there are no factors",
        }.get(str(kind), "expected 'lora'")
        raise InputError(f"{where}: fine_tune_type is {str(kind)[:40]!r}: {reason}; {CONVERT}")
    rank, scale = _parameters(raw.get("lora_parameters"), where)
    for module, pair in shapes.items():
        if pair["a"][1] != rank:
            raise InputError(
                f"{where}: lora_parameters has rank {rank}, {module} has factors of rank {pair['a'][1]}; take the "
                "config that was saved with these weights"
            )
    adapter = Adapter(
        {m: {f: jax.ShapeDtypeStruct(s, np.float32) for f, s in pair.items()} for m, pair in shapes.items()},
        scale,
        _layers(found),
    )
    base = raw.get("model")
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base if isinstance(base, str) and base else None,
        "bias": "none",
        "lora_dropout": 0.0,
        "fan_in_fan_out": False,
        "modules_to_save": None,
        **config_fields(adapter, stack=found.stack),
    }


def _layers(found: StackedKeys):
    """None where all modules have the layers from 0 on: MLX-LM counts the layers it adapts from the last."""
    layers = {module: tuple(per_layer) for module, per_layer in found.keys.items()}
    same = set(layers.values())
    return None if len(same) == 1 and (one := same.pop()) == tuple(range(len(one))) else layers


def _parameters(value: Any, where: str) -> tuple[int, float]:
    """Return rank and scale."""
    if not isinstance(value, Mapping):
        raise unexpected(value, "lora_parameters", where, "rank and scale, as MLX-LM writes it")
    rank = whole(value.get("rank"), "lora_parameters.rank", where)
    scale, alpha = factor(value.get("scale"), "lora_parameters.scale", where), value.get("alpha")
    if alpha is not None and alpha != rank:
        raise InputError(
            f"{where}: lora_parameters has alpha {short(alpha, 40)} beside scale {scale}; versions of early 2024 "
            "multiply scale by alpha / rank, later ones ignore alpha: set scale to what the training used and "
            "remove alpha"
        )
    return rank, float(scale)


def note_of_mlx(config: Mapping[str, Any]) -> str:
    """Return one line on what was read; ``config`` is from ``plain_config``."""
    return (
        f"written by MLX-LM; read with transposed factors and scale {config['lora_alpha'] / config['r']:g}, and "
        "written as a PEFT adapter"
    )
