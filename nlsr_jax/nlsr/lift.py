"""Lift: one factor space for an aligned model, the direction of its alignment, and a new adapter on it.

A customer's adapter that was trained on the aligned model itself shares no rank axis with any other adapter. The
lift stacks the A factors once and expresses everything else in B. With V = W_aligned − W_pretrained = B_V A_V and
the customer's update ΔW_t = B_t A_t,

    fine-tuned [0, B_t],  aligned [0, 0],  weak [−B_V, 0],  all over A = [A_V; A_t],

so that ``amplify`` in factors gives the reference [β B_V, 0], whose product is exactly β V. All scores, rules and
corrections then apply unchanged. A transplanted entry of B_t becomes 0, the aligned model's value; a transplanted
entry of V's slot gets the value of β V.

Axis legend: L layers, r rank, k in-features, d out-features.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nlsr_jax.adapter import Adapter, check_adapter, layer_indices, layer_scaling, module_names
from nlsr_jax.errors import InputError
from nlsr_jax.nlsr.direction import Direction


class Lifted(NamedTuple):
    """Adapters on the aligned model over one stacked A: ``a [L, r_V + r, k]``, ``b [L, d, r_V + r]``.

    Attributes:
      weak: W₀, the pretrained model: B is [−B_V, 0].
      aligned: Wₐ, the aligned model itself: B is 0.
      finetuned: W_t, the customer's adapter: B is [0, B_t].
    """

    weak: Adapter
    aligned: Adapter
    finetuned: Adapter


def lift(finetuned: Adapter, direction: Adapter | Direction | None = None) -> Lifted:
    """Lift a customer's adapter on the aligned model, and the direction of its alignment, into one factor space.

    Args:
      finetuned: W_t, factors ``a [L, r, k]`` and ``b [L, d, r]``.
      direction: V, factors ``a [L, r_V, k]`` and ``b [L, d, r_V]`` with at least the modules and layers of
        ``finetuned``, or the result of ``safety_direction``; None if the pretrained model is not available, in
        which case the rank stays r.

    Returns:
      ``Lifted`` with the dtypes, scaling and layers of ``finetuned``.

    Raises:
      InputError: if the direction lacks a module or a layer, or belongs to a base of another shape.
    """
    check_adapter(finetuned, "finetuned")
    if isinstance(direction, Direction):
        direction = direction.adapter
    check_direction(finetuned, direction)
    factors = {}
    for module, leaf in finetuned.factors.items():
        rows = None if direction is None else direction_rows(finetuned, direction, module)
        factors[module] = lift_factors(leaf, rows)
    weak, aligned, tuned = (
        dataclasses.replace(finetuned, factors={m: found[kind] for m, found in factors.items()})
        for kind in Lifted._fields
    )
    return Lifted(weak, aligned, tuned)


def lift_factors(leaf, direction=None) -> dict[str, dict[str, jax.Array]]:
    """Lift the factors of one module.

    Args:
      leaf: ``{"a": [L, r, k], "b": [L, d, r]}`` of the fine-tuned adapter.
      direction: ``{"a": [L, r_V, k], "b": [L, d, r_V]}`` in the scaling of the fine-tuned adapter, or None.

    Returns:
      ``{"weak", "aligned", "finetuned"}``, each with factors in the dtypes of ``leaf``.
    """
    a, b = leaf["a"], leaf["b"]
    if direction is None:
        zero = {"a": a, "b": jnp.zeros_like(b)}
        return {"weak": zero, "aligned": zero, "finetuned": {"a": a, "b": b}}
    slot = jnp.asarray(direction["b"]).astype(b.dtype)
    stacked = jnp.concatenate([jnp.asarray(direction["a"]).astype(a.dtype), a], axis=1)
    found = {
        "weak": jnp.concatenate([-slot, jnp.zeros_like(b)], axis=2),
        "aligned": jnp.zeros((*b.shape[:2], stacked.shape[1]), b.dtype),
        "finetuned": jnp.concatenate([jnp.zeros_like(slot), b], axis=2),
    }
    return {kind: {"a": stacked, "b": value} for kind, value in found.items()}


def direction_rows(finetuned: Adapter, direction: Adapter, module: str, rows: slice = slice(None)):
    """Return the direction's factors of one module for the fine-tuned adapter's layers, in its scaling.

    Args:
      finetuned: adapter with arrays or ``jax.ShapeDtypeStruct`` leaves.
      direction: V; see ``lift``.
      module: the module's name.
      rows: slice of the leading axis of ``finetuned``.

    Returns:
      ``{"a": [n, r_V, k], "b": [n, d, r_V]}`` float32.
    """
    chosen = layer_indices(finetuned, module)[rows]
    place = {layer: i for i, layer in enumerate(layer_indices(direction, module))}
    index = np.asarray([place[layer] for layer in chosen])
    ratio = layer_scaling(direction, module)[index] / layer_scaling(finetuned, module)[rows]
    leaf = direction.factors[module]
    b = jnp.asarray(leaf["b"])[index].astype(jnp.float32) * ratio[:, None, None]
    return {"a": jnp.asarray(leaf["a"])[index], "b": b}


def check_direction(finetuned: Adapter, direction: Adapter | None) -> None:
    """Check that a direction covers a fine-tuned adapter; see ``lift``.

    Raises:
      InputError: if a module or layer is missing or has another shape; the message names the first.
    """
    if direction is None:
        return
    check_adapter(direction, "direction")
    for module in module_names(finetuned.factors):
        if module not in direction.factors:
            raise InputError(f"direction: has no {module}, which the fine-tuned adapter adapts")
        missing = sorted(set(layer_indices(finetuned, module)) - set(layer_indices(direction, module)))
        if missing:
            raise InputError(
                f"direction: has no layer {missing[0]} of {module}, which the fine-tuned adapter adapts"
            )
        one, two = finetuned.factors[module], direction.factors[module]
        found, expected = (two["a"].shape[2], two["b"].shape[1]), (one["a"].shape[2], one["b"].shape[1])
        if found != expected:
            raise InputError(
                f"direction: {module} maps {found[0]} features to {found[1]}, the fine-tuned adapter's maps "
                f"{expected[0]} to {expected[1]}; they belong to different bases"
            )
