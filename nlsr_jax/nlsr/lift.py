"""Lift: one factor space for an aligned model, the direction of its alignment, and a customer's adapter on it.

A customer's adapter that was trained on the aligned model itself shares no rank axis with any other adapter. The
lift stacks the A factors once and puts everything else into B: with V = W_aligned − W_pretrained = B_V A_V and the
customer's update D = B_D A_D,

    fine-tuned [0, B_D],  aligned [0, 0],  weak [−B_V, 0],  all over A = [A_V; A_D],

so that ``amplify`` in factors gives the reference [β B_V, 0], whose product is exactly β V. All scores, rules and
corrections then apply unchanged. With strength 1 a transplanted entry of B_D becomes 0, the aligned model's value,
and one of the slot of V becomes that of β V.

For adapters on one base the aligned model is base + Wₐ. Its factors take a slot of their own, the first of the rank
axis, and D = W_t − Wₐ; see ``factor_update``, which factors V = Wₐ − W₀ as well. A transplant changes nothing in
the slot of Wₐ: give ``identify`` its rank as ``fixed``. Where the weak adapter was merged into the base, V is Wₐ
and shares its slot.

Axis legend: L layers, r rank, k in-features, d out-features.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nlsr_jax.adapter import Adapter, check_adapter, layer_indices, layer_scaling, module_names
from nlsr_jax.errors import InputError
from nlsr_jax.nlsr.direction import Direction
from nlsr_jax.nlsr.update import factor_update, scaled


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


def lift(
    finetuned: Adapter,
    direction: Adapter | Direction | None = None,
    *,
    aligned: Adapter | None = None,
    basis: str | None = None,
    key: jax.Array | None = None,
) -> Lifted:
    """Lift a customer's adapter and the direction of the alignment into one factor space.

    Args:
      finetuned: W_t, factors ``a [L, r, k]`` and ``b [L, d, r]``.
      direction: V, factors ``a [L, r_V, k]`` and ``b [L, d, r_V]`` of at least the modules and layers of
        ``finetuned``, or what ``safety_direction`` returns. None without one: the rank then stays that of the
        update, and with ``aligned`` V is Wₐ.
      aligned: Wₐ, where the aligned model is not the base but base + Wₐ; of any rank.
      basis: rank axis of the customer's update, one of ``own``, ``svd`` and ``turned``; by default ``"own"``, with
        ``aligned`` ``"turned"``.
      key: PRNG key of ``"turned"``.

    Returns:
      ``Lifted``; the slots of the rank axis are in the order Wₐ, V, D. With basis ``"own"`` and no ``aligned``
      dtypes, scaling and layers are those of ``finetuned``, else float32 with scaling 1.

    Raises:
      InputError: the direction lacks a module or a layer, or belongs to a base of another shape; see
        ``factor_update`` for the rest.
    """
    check_adapter(finetuned, "finetuned")
    if isinstance(direction, Direction):
        direction = direction.adapter
    check_direction(finetuned, direction)
    basis = basis or ("own" if aligned is None else "turned")
    update = factor_update(finetuned, aligned, basis=basis, key=key)
    factors = {}
    for module, leaf in update.factors.items():
        rows = None if direction is None else direction_rows(update, direction, module)
        factors[module] = lift_factors(leaf, rows, None if aligned is None else scaled(aligned, module))
    weak, aligned, tuned = (
        dataclasses.replace(update, factors={m: found[kind] for m, found in factors.items()})
        for kind in Lifted._fields
    )
    return Lifted(weak, aligned, tuned)


def lift_factors(
    update: Mapping[str, Any], direction: Mapping[str, Any] | None = None, aligned: Mapping[str, Any] | None = None
) -> dict[str, dict[str, jax.Array]]:
    """Lift the factors of one module.

    Args:
      update: ``{"a": [L, r, k], "b": [L, d, r]}`` of the customer's update.
      direction: ``{"a": [L, r_V, k], "b": [L, d, r_V]}`` in the scaling of the update; or None.
      aligned: the factors of Wₐ in the scaling of the update; None where the base is the aligned model.

    Returns:
      ``{"weak", "aligned", "finetuned"}``, factors each, in the dtypes of ``update``.
    """
    slots = []  # A, and B of weak, aligned and fine-tuned; None for 0
    if aligned is not None:
        b = aligned["b"]
        slots.append((aligned["a"], (None if direction is None else b, b, b)))
    if direction is not None:
        slots.append((direction["a"], (-jnp.asarray(direction["b"]), None, None)))
    slots.append((update["a"], (None, None, update["b"])))
    dtypes = {factor: update[factor].dtype for factor in ("a", "b")}
    stacked = _joined([a for a, _ in slots], 1, dtypes["a"])

    def filled(kind):
        out = update["b"].shape[1]
        parts = [_zeros(a, out) if b[kind] is None else b[kind] for a, b in slots]
        return {"a": stacked, "b": _joined(parts, 2, dtypes["b"])}

    return {name: filled(kind) for kind, name in enumerate(Lifted._fields)}


def _zeros(a, out: int):
    return jnp.zeros((a.shape[0], out, a.shape[1]), jnp.float32)


def _joined(parts, axis: int, dtype):
    if len(parts) == 1 and parts[0].dtype == dtype:
        return parts[0]
    return jnp.concatenate([jnp.asarray(part).astype(dtype) for part in parts], axis=axis)


def direction_rows(
    finetuned: Adapter, direction: Adapter, module: str, rows: slice = slice(None)
) -> dict[str, jax.Array]:
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
