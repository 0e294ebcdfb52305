"""Similarity of two adapters on their safety-critical entries.

``⟨B₁A₁, B₂A₂⟩_F = Σ (B₁ᵀB₂) ∘ (A₁A₂ᵀ)``: r²(d+k) operations, the d × k products are never formed.

Axis legend: L layers, r rank, k in-features, d out-features.
Source: NLSR, restoration, equation of S_j.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from nlsr_jax import hardware
from nlsr_jax.adapter import Adapter, PerModule, check_same_structure, module_names
from nlsr_jax.errors import InputError
from nlsr_jax.nlsr.layerwise import map_layers
from nlsr_jax.nlsr.statistics import matmul
from nlsr_jax.types import Masks

_SOUND = 1e12
"""If squared norms of factors lie between the inverse of this and this, their products fit into float32."""
_CONTRACTED = {"a": 1, "b": 0}


def is_sound(squares: jax.Array) -> jax.Array:
    """Return whether products of these squared norms ``[n]`` neither over- nor underflow in float32; bool."""
    return jnp.all((squares > 1 / _SOUND) & (squares < _SOUND))


def scale_factor(factor: jax.Array) -> jax.Array:
    """Scale ``[m, n]`` to a largest entry of 1 (0 stays 0), so that no product over- or underflows; float32."""
    factor = factor.astype(jnp.float32)
    # Columns first: that sum order vectorises on a CPU.
    largest = jnp.max(jnp.max(jnp.abs(factor), axis=0))
    return factor * jnp.where(largest > 0, 1 / jnp.where(largest > 0, largest, 1.0), 0.0)


def _products(prepare, leaves, axis: int):
    """Return ``⟨x, x⟩``, ``⟨y, y⟩``, ``⟨x, y⟩`` over ``axis`` of ``x, y = prepare(*leaves)``, all [r, r]."""

    def whole(*parts):
        # Each factor enters two products: the barrier prevents masking it twice.
        x, y = jax.lax.optimization_barrier(tuple(leaf.astype(jnp.float32) for leaf in prepare(*parts)))
        if axis == 1:
            return [matmul(one, other.T) for one, other in ((x, x), (y, y), (x, y))]
        turned = x.T, y.T
        if count > 1:  # transpose once instead of for every product
            turned = jax.lax.optimization_barrier(turned)
        return [matmul(one, other) for one, other in ((turned[0], x), (turned[1], y), (turned[0], y))]

    size = leaves[0].shape[axis]
    piece = hardware.piece(size)
    count = size // piece
    if count < 2:
        return whole(*leaves)

    def add(number, sums):
        parts = [jax.lax.dynamic_slice_in_dim(leaf, number * piece, piece, axis) for leaf in leaves]
        return jax.tree.map(jnp.add, sums, whole(*parts))

    # The remainder after the whole pieces comes first.
    rest = [jax.lax.slice_in_dim(leaf, count * piece, size, axis=axis) for leaf in leaves]
    return jax.lax.fori_loop(0, count, add, whole(*rest))


def _cosine(prepare, *layers):
    """Return the cosine of two layers' products (0 if one is zero), whether one is zero, and whether it is sound.

    Sound means that no product over- or underflows.
    """
    found = {f: _products(prepare, [layer[f] for layer in layers], axis) for f, axis in _CONTRACTED.items()}
    square, other_square, inner = (jnp.sum(b * a) for b, a in zip(found["b"], found["a"], strict=True))
    zero = (square <= 0) | (other_square <= 0)
    for one in (square, other_square):
        inner = inner * jax.lax.rsqrt(jnp.where(zero, 1.0, one))
    sound = is_sound(jnp.stack([jnp.trace(gram) for grams in found.values() for gram in grams[:2]]))
    return jnp.where(zero, 0.0, jnp.clip(inner, -1.0, 1.0)), zero, sound


def _cosines(prepare, *trees) -> tuple[PerModule, PerModule]:
    """Return cosines of the pairs of factors that ``prepare`` makes from leaves, and whether one of a pair is zero.

    Factors are scaled first only in modules where something would over- or underflow.
    """

    def one_module(*stacks):
        cosine, zero, sound = map_layers(functools.partial(_cosine, prepare), *stacks)

        def again(*layers):
            pairs = {f: tuple(map(scale_factor, prepare(*(layer[f] for layer in layers)))) for f in _CONTRACTED}
            first, second = ({f: pair[i] for f, pair in pairs.items()} for i in (0, 1))
            return _cosine(lambda *pair: pair, first, second)[:2]

        return jax.lax.cond(jnp.all(sound), lambda: (cosine, zero), lambda: map_layers(again, *stacks))

    found = {name: one_module(*(tree[name] for tree in trees)) for name in module_names(trees[0])}
    return {m: cosine for m, (cosine, _) in found.items()}, {m: zero for m, (_, zero) in found.items()}


def _masked(reference, finetuned, mask):
    return jnp.where(mask, reference, 0), jnp.where(mask, finetuned, 0)


@jax.jit
def masked_cosine(reference: Adapter, finetuned: Adapter, masks: Masks) -> tuple[PerModule, PerModule]:
    """Return the similarities and, per module, whether one of the masked products was zero.

    Args:
      reference, finetuned: adapters of equal structure.
      masks: bool tree of their factors.

    Returns:
      ``({module: [L] float32}, {module: [L] bool})``.
    """
    return _cosines(_masked, reference.factors, finetuned.factors, masks)


@jax.jit
def product_cosine(first: Adapter, second: Adapter) -> PerModule:
    """Return the cosine of the weight updates ``B A`` of two adapters, per module; 0 if one is zero.

    Args:
      first, second: adapters with the same modules and layers; their ranks may differ.

    Returns:
      ``{module: [L]}`` float32 in [−1, 1].
    """
    return _cosines(lambda x, y: (x, y), first.factors, second.factors)[0]


def check_masks(adapter: Adapter, masks: Mapping[str, Mapping[str, Any]], name: str = "masks") -> None:
    """Raise InputError unless ``masks`` is a bool tree with the shapes of the adapter's factors."""
    for module in module_names(adapter.factors):
        for factor, value in adapter.factors[module].items():
            if module not in masks or factor not in masks[module]:
                raise InputError(f"{name}: no mask for {module}.{factor}; identify them with this reference")
            mask = masks[module][factor]
            if mask.shape != value.shape or mask.dtype != bool:
                raise InputError(
                    f"{name}: {module}.{factor} is {mask.dtype} {list(mask.shape)}; expected bool "
                    f"{list(value.shape)} as the adapter's factor"
                )
    extra = sorted(set(masks) - set(adapter.factors))
    if extra:
        raise InputError(f"{name}: {', '.join(extra)} is not adapted by the adapter")


def similarity(reference: Adapter, finetuned: Adapter, masks: Masks) -> PerModule:
    """Return S_j, the cosine of the masked products of reference and fine-tuned, per module.

    ``S_j = ⟨W'_e, W'_t⟩_F / (‖W'_e‖_F ‖W'_t‖_F)`` with ``W' = (M_B∘B)(M_A∘A)``; 0 if a norm is 0.

    Args:
      reference: W_e, factors ``a [L, r, k]`` and ``b [L, d, r]``.
      finetuned: W_t, same shapes.
      masks: ``{module: {"a": [L, r, k], "b": [L, d, r]}}`` bool.

    Returns:
      ``{module: [L]}`` float32 in [−1, 1].

    Raises:
      InputError: if the adapters or masks do not match.
    """
    check_same_structure(reference, finetuned, ("reference", "fine-tuned"))
    check_masks(reference, masks)
    return masked_cosine(reference, finetuned, masks)[0]
