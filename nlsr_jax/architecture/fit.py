"""Adapters meet the model: checks first, then factors for every layer with the scaling folded in."""

import re

from nlsr_jax.adapter import Adapter, check_adapter, layer_indices, module_names
from nlsr_jax.architecture.config import ModelConfig
from nlsr_jax.errors import InputError, argument
from nlsr_jax.modules import FUSED, MODULES, slice_of

_EVERY = (*MODULES, *FUSED)
WITHOUT_FORWARD = (
    f"To realign without one, give {argument('masks')}, {argument('method')} random, or, beside "
    f"{argument('aligned')}, {argument('method')} magnitude"
)
"""What to do where a method needs a forward pass that is not available."""
_OTHER_BASE = "the adapter belongs to another base"
_EXPERT = re.compile(r"\.experts\.\d+\.")


def check_adapter_fits(adapter: Adapter, config: ModelConfig, name: str = "adapter") -> None:
    """Check that an adapter's modules, layers and shapes are the model's.

    Args:
      adapter: arrays or ``jax.ShapeDtypeStruct`` leaves.
      config: of the model.
      name: what to call the adapter in the error.

    Raises:
      InputError: naming the module that does not fit.
    """
    check_adapter(adapter, name)
    projections = config.adaptable()
    check_modules(adapter, name, config)
    for module in module_names(adapter.factors):
        a, b = (adapter.factors[module][f].shape for f in ("a", "b"))
        found, expected = (a[2], b[1]), projections[module]
        if found != expected:
            turned = slice_of(module) and found == expected[::-1]
            why = "PEFT before 0.19.1 laid such factors out the other way round" if turned else _OTHER_BASE
            raise InputError(
                f"{name}: {module} maps {found[0]} features to {found[1]}, the model's maps {expected[0]} to "
                f"{expected[1]}; {why}"
            )
        layers = layer_indices(adapter, module)
        every = not (adapter.layers and module in adapter.layers)
        if every and a[0] != config.num_layers:
            raise InputError(f"{name}: {module} has {a[0]} layers, the model {config.num_layers}")
        if max(layers) >= config.num_layers or list(layers) != sorted(set(layers)) or min(layers) < 0:
            raise InputError(f"{name}: {module} adapts layers {list(layers)}; the model has {config.num_layers}")


def _of_expert(name: str) -> bool:
    return bool(_EXPERT.search(name) or slice_of(name))


def check_modules(adapter: Adapter, name: str = "adapter", config: ModelConfig | None = None) -> None:
    """Check that a Flax model has every module of an adapter; see ``check_adapter_fits``.

    Args:
      adapter: arrays or ``jax.ShapeDtypeStruct`` leaves.
      name: what to call the adapter in the error.
      config: of the model; None to ask whether a model of any family has them.

    Raises:
      InputError: naming the modules that it does not have, and why.
    """
    names = module_names(adapter.factors)
    if config is None:
        known, lacking = _EVERY, [name for name in names if name not in _EVERY and not _of_expert(name)]
    else:
        known, every = tuple(config.projections()), config.adaptable()
        lacking = [name for name in names if name not in every]
    if not lacking:
        return
    shown = ", ".join(lacking[:4]) + (f" and {len(lacking) - 4} more" if len(lacking) > 4 else "")
    reason = f"the base has no module {shown} in its Flax model, whose layers have {', '.join(known)}"
    router = config is not None and config.table.experts is not None and config.table.experts.router
    if router in lacking:
        reason = f"{router} is the router, whose choice of experts stays the base's"
    raise InputError(f"{name}: {reason}: a forward pass of such an adapter is not available. {WITHOUT_FORWARD}")
