"""The config fields from which PEFT computes exactly the ranks, scalings and targets of an adapter."""

import collections
import math
import re

import numpy as np

from nlsr_jax.adapter import Adapter, layer_indices, module_names
from nlsr_jax.formats.peft_targets import module_path


def tensor_name(prefix: str, layer: int, module: str, factor: str) -> str:
    """Return PEFT's name of a factor, such as ``….layers.0.mlp.up_proj.lora_A.weight``."""
    return f"{module_path(layer, module, prefix)}.lora_{factor.upper()}.weight"


def exact_alpha(scaling: float, rank: int, rslora: bool) -> float:
    """Return the ``lora_alpha`` for which PEFT's division gives ``scaling`` back, a whole number if it can be.

    Args:
      scaling: the scaling.
      rank: the rank.
      rslora: the divisor is ``sqrt(rank)`` in place of ``rank``.
    """
    divisor = math.sqrt(rank) if rslora else rank
    near = scaling * divisor
    candidates = [float(round(near)), near, math.nextafter(near, math.inf), math.nextafter(near, -math.inf)]
    best = min(candidates, key=lambda alpha: abs(alpha / divisor - scaling))
    return int(best) if best.is_integer() else best


def config_fields(adapter: Adapter, *, rslora: bool = False) -> dict:
    """Return the fields of ``adapter_config.json`` that depend on the adapter's structure.

    Args:
      adapter: the adapter.
      rslora: write for rank-stabilised scaling.
    """
    names = module_names(adapter.factors)
    ranks = {m: int(adapter.factors[m]["a"].shape[1]) for m in names}
    rank = collections.Counter(ranks.values()).most_common(1)[0][0]
    alphas = {(m, i): exact_alpha(s, ranks[m], rslora) for m in names for i, s in enumerate(_scalings(adapter, m))}
    alpha = collections.Counter(alphas.values()).most_common(1)[0][0]
    return {
        "r": rank,
        "lora_alpha": alpha,
        "use_rslora": rslora,
        "rank_pattern": {m: ranks[m] for m in names if ranks[m] != rank},
        "alpha_pattern": _alpha_pattern(adapter, names, alphas, alpha),
        **_target_fields(adapter, names),
    }


def _scalings(adapter: Adapter, module: str) -> list[float]:
    scaling = adapter.scaling if isinstance(adapter.scaling, int | float) else adapter.scaling[module]
    count = adapter.factors[module]["a"].shape[0]
    return [float(s) for s in np.broadcast_to(np.asarray(scaling, np.float64), (count,))]


def _alpha_pattern(adapter, names, alphas, default) -> dict[str, float]:
    """A module name where all its layers agree, else the paths of the layers that differ."""
    pattern = {}
    for module in names:
        layers = layer_indices(adapter, module)
        values = [alphas[module, i] for i in range(len(layers))]
        if len(set(values)) == 1:
            if values[0] != default:
                pattern[module] = values[0]
            continue
        for layer, value in zip(layers, values, strict=True):
            if value != default:
                pattern[re.escape(module_path(layer, module, ""))] = value
    return pattern


def _target_fields(adapter, names) -> dict:
    layers = {m: layer_indices(adapter, m) for m in names}
    fields = {"layers_to_transform": None, "layers_pattern": None, "exclude_modules": None}
    if len(set(layers.values())) == 1:
        chosen = list(next(iter(layers.values()))) if adapter.layers else None
        return {**fields, "target_modules": sorted(names), "layers_to_transform": chosen}
    parts = []
    for module in names:
        numbers = "|".join(map(str, layers[module]))
        parent = module_path(0, module, "").split(".")[2]
        parts.append(rf"layers\.(?:{numbers})\.{parent}\.{module}")
    return {**fields, "target_modules": rf"(?:.*\.)?(?:{'|'.join(parts)})"}
