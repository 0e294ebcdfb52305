"""The matrices of decoder layers that a gradient is taken by: projections, and stacks of experts.

Axis legend: L layers, E experts, k in-features, d out-features. Layers may be stacked, or one alone.
"""

from collections.abc import Mapping
from typing import Any

from nlsr_jax.architecture.config import EXPERT_PROJECTIONS, ModelConfig

_EXPERTS = "experts"


def kernels_of(layers: Mapping[str, Any]) -> dict[str, Any]:
    """Return the matrices of layers.

    Args:
      layers: parameters of the layers, stacked or of one.

    Returns:
      ``{module: [L, d, k]}``, and ``{"experts": {own name: [L, E, d, k]}}`` where there are experts.
    """
    found = {module: leaf["kernel"] for module, leaf in layers.items() if "kernel" in leaf}
    if _EXPERTS in layers:
        found[_EXPERTS] = {own: layers[_EXPERTS][own] for own in EXPERT_PROJECTIONS}
    return found


def with_kernels(layers: Mapping[str, Any], kernels: Mapping[str, Any]) -> dict[str, Any]:
    """Return layers with other matrices; see ``kernels_of``."""
    given = {m: leaf if m == _EXPERTS else {"kernel": leaf} for m, leaf in kernels.items()}
    return {m: {**leaf, **given.get(m, {})} for m, leaf in layers.items()}


def by_module(config: ModelConfig, kernels: Mapping[str, Any], axis: int) -> dict[str, Any]:
    """Return the matrices by module name, those of every expert by its own.

    Args:
      config: of the model.
      kernels: from ``kernels_of``, or a gradient of the same structure.
      axis: of the experts: 1 where layers are stacked, 0 in one layer.
    """
    found = {module: leaf for module, leaf in kernels.items() if module != _EXPERTS}
    for module, ((own, expert), _) in config.expert_modules().items():
        found[module] = kernels[_EXPERTS][own].take(expert, axis=axis)
    return found
