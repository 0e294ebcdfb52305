"""The config fields from which PEFT computes exactly the ranks, scalings and targets of an adapter."""

import collections
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from nlsr_jax.adapter import Adapter, layer_indices, module_names
from nlsr_jax.errors import InputError
from nlsr_jax.formats.peft_keys import WRAPPER, Stack
from nlsr_jax.formats.peft_parameters_writing import of_parameters
from nlsr_jax.formats.peft_targets import module_path
from nlsr_jax.modules import MODULES, parameter_path, path_in_layer, slice_of

_NO_LAYERS = {"layers_to_transform": None, "layers_pattern": None, "exclude_modules": None}
PLAIN_STACK = Stack("model.", "layers")
"""The list of layers of a causal language model."""


def tensor_name(stack: Stack, layer: int, module: str, factor: str) -> str:
    """Return the name that PEFT looks for: ``base_model.model.`` + the module's path + ``.lora_A.weight``."""
    return f"{WRAPPER}{module_path(layer, module, stack)}.lora_{factor.upper()}.weight"


def exact_alpha(scaling: float, rank: int, rslora: bool) -> float:
    """Return the ``lora_alpha`` for which PEFT's division gives ``scaling`` back, a whole number if it can be.

    The quotients of float64 numbers by a rank have gaps, so that a few scalings have no such number; then the
    result is one float64 step away at most, and the same float32 number, which is what is computed with.

    Args:
      scaling: the scaling, finite and not 0.
      rank: the rank.
      rslora: the divisor is ``sqrt(rank)`` in place of ``rank``.
    """
    divisor = math.sqrt(rank) if rslora else rank
    near = scaling * divisor
    candidates = [float(round(near)), near, math.nextafter(near, math.inf), math.nextafter(near, -math.inf)]

    def distance(alpha):
        found = alpha / divisor
        return np.float32(found) != np.float32(scaling), abs(found - scaling)

    best = min(candidates, key=distance)
    return int(best) if best.is_integer() else best


def structure(adapter: Adapter) -> dict[str, Any]:
    """Return what a config says about an adapter: shapes, layers and scalings of every module name.

    Args:
      adapter: arrays or ``jax.ShapeDtypeStruct`` leaves.
    """
    return {
        module: (
            [tuple(adapter.factors[module][f].shape) for f in ("a", "b")],
            layer_indices(adapter, module),
            scalings(adapter, module),
        )
        for module in module_names(adapter.factors)
    }


def scalings(adapter: Adapter, module: str) -> list[float]:
    """Return the scaling of every adapted layer of a module name, in float64.

    Raises:
      InputError: one that is 0 or not finite, which no config can hold.
    """
    scaling = adapter.scaling[module] if isinstance(adapter.scaling, Mapping) else adapter.scaling
    count = adapter.factors[module]["a"].shape[0]
    found = [float(s) for s in np.broadcast_to(np.asarray(scaling, np.float64), (count,))]
    for value in found:
        if not 0 < abs(value) < math.inf:
            raise InputError(f"adapter: the scaling of {module} is {value}; expected a finite number other than 0")
    return found


def config_fields(adapter: Adapter, *, rslora: bool = False, stack: Stack = PLAIN_STACK) -> dict[str, Any]:
    """Return the fields of ``adapter_config.json`` that depend on the adapter's structure.

    Args:
      adapter: the adapter.
      rslora: write for rank-stabilised scaling.
      stack: the list of layers of the base.
    """
    stacked = of_parameters(adapter)
    names = tuple(m for m in module_names(adapter.factors) if not slice_of(m))
    every = (*names, *(experts[0] for experts in stacked.values()))
    ranks = {m: int(adapter.factors[m]["a"].shape[1]) for m in every}
    rank = collections.Counter(ranks.values()).most_common(1)[0][0]
    alphas = {m: [exact_alpha(s, ranks[m], rslora) for s in scalings(adapter, m)] for m in every}
    alpha = collections.Counter(a for values in alphas.values() for a in values).most_common(1)[0][0]
    return {
        "r": rank,
        "lora_alpha": alpha,
        "use_rslora": rslora,
        "rank_pattern": {re.escape(_selecting(m, every)): ranks[m] for m in every if ranks[m] != rank},
        "alpha_pattern": _alpha_pattern(adapter, alphas, alpha, stack),
        **(_target_fields(adapter, names, stack) if names else {**_NO_LAYERS, "target_modules": []}),
        **_parameter_fields(adapter, stacked, stack),
    }


def _parameter_fields(adapter: Adapter, stacked: Mapping[str, list[str]], stack: Stack) -> dict[str, Any]:
    """Return the parameters that are adapted; each layer's own where not all layers are."""
    if not stacked:
        return {}
    found: list[str] = []
    for parameter, experts in stacked.items():
        if adapter.layers and experts[0] in adapter.layers:
            layers = layer_indices(adapter, experts[0])
            found += [module_path(layer, parameter, stack._replace(prefix="")) for layer in layers]
        else:
            found.append(parameter)
    return {"target_parameters": sorted(found)}


def _selecting(module: str, names: tuple[str, ...]) -> str:
    """Return the end of a path that selects a module: the name of a projection, else its path in the layer.

    Of an expert, that of the parameter of all experts.
    """
    if one := slice_of(module):
        return one.parameter
    return module if set(names) <= set(MODULES) else path_in_layer(module)


def _alpha_pattern(
    adapter: Adapter, alphas: dict[str, list[float]], default: float, stack: Stack
) -> dict[str, float]:
    """Return one entry for a module if its layers agree, else one for each path of a layer that differs.

    No two entries match one path, so that their order, which PEFT loses, does not matter.
    """
    pattern = {}
    for module, values in alphas.items():
        if len(set(values)) == 1:
            if values[0] != default:
                pattern[re.escape(_selecting(module, tuple(alphas)))] = values[0]
            continue
        for layer, value in zip(layer_indices(adapter, module), values, strict=True):
            if value != default:
                path = module_path(layer, module, stack._replace(prefix=""))
                pattern[re.escape(parameter_path(path))] = value
    return pattern


def _target_fields(adapter: Adapter, names: tuple[str, ...], stack: Stack) -> dict[str, Any]:
    """Return names and layer numbers if all modules have the same layers, else a regular expression of whole paths.

    A list of names would select layers of other parts of the model as well, where it has some.
    """
    modules: dict[tuple[int, ...], list[str]] = {}
    for name in names:
        modules.setdefault(layer_indices(adapter, name), []).append(name)
    fields: dict[str, Any] = dict(_NO_LAYERS)
    # Versions of PEFT differ in which number of a path is the layer's where it has several.
    one_number = not any(part.isdecimal() for name in names for part in name.split("."))
    if len(modules) == 1 and stack.prefix in ("", "model.") and (one_number or not adapter.layers):
        fields["target_modules"] = sorted(_selecting(name, names) for name in names)
        if adapter.layers:
            fields["layers_to_transform"] = list(next(iter(modules)))
            # PEFT finds the number by itself only in paths that do not begin with the list of layers.
            fields["layers_pattern"] = None if stack.prefix else [stack.name]
        return fields
    before = r"(?:.*\.)?" if stack.prefix in ("", "model.") else re.escape(stack.prefix)
    alternatives = "|".join(_alternative(layers, same) for layers, same in modules.items())
    return {**fields, "target_modules": rf"{before}{re.escape(stack.name)}\.(?:{alternatives})"}


def _alternative(layers: tuple[int, ...], names: list[str]) -> str:
    """Return an expression for the paths, from the layer's number on, of some modules of some layers."""
    numbers = "|".join(map(str, layers))
    if set(names) <= set(MODULES):
        return rf"(?:{numbers})\.(?:self_attn|mlp)\.(?:{'|'.join(names)})"
    paths = "|".join(re.escape(path_in_layer(name)) for name in names)
    return rf"(?:{numbers})\.(?:{paths})"
