"""Similarity of two adapters through their safety-critical entries.

``⟨B₁A₁, B₂A₂⟩_F = Σ (B₁ᵀB₂) ∘ (A₁A₂ᵀ)``: r²(d+k) operations, the d × k products are never formed.

Axis legend: L layers, r rank, k in-features, d out-features.
Source: NLSR, restoration, equation of S_j.
"""

import jax
import jax.numpy as jnp

from nlsr_jax.adapter import Adapter, PerModule, check_same_structure, module_names
from nlsr_jax.errors import InputError
from nlsr_jax.nlsr.layerwise import map_layers
from nlsr_jax.nlsr.statistics import matmul

_SOUND = 1e12
"""Between its inverse and it, the squared norms of factors leave room for their products in float32."""


def scale_factors(factors):
    """Scale both factors to a largest entry of 1 (0 stays 0), so that no product over- or underflows."""

    def scale(leaf):
        leaf = leaf.astype(jnp.float32)
        # Columns first: that sum order vectorises on a CPU.
        largest = jnp.max(jnp.max(jnp.abs(leaf), axis=0))
        return leaf * jnp.where(largest > 0, 1 / jnp.where(largest > 0, largest, 1.0), 0.0)

    return jax.tree.map(scale, factors)


def _cosine(first, second):
    """Cosine of the products of two layers, 0 where one of them is zero; whether that is so; whether it is sound.

    It is sound where no product over- or underflows.
    """
    # Each factor enters two products: the barrier keeps its masking from being done twice.
    first, second = jax.lax.optimization_barrier((first, second))
    grams, other_grams = _grams(first, first), _grams(second, second)
    square, other_square = jnp.sum(grams[0] * grams[1]), jnp.sum(other_grams[0] * other_grams[1])
    zero = (square <= 0) | (other_square <= 0)
    inner = jnp.sum(jnp.multiply(*_grams(first, second)))
    for one in (square, other_square):
        inner = inner * jax.lax.rsqrt(jnp.where(zero, 1.0, one))
    traces = jnp.stack([jnp.trace(gram) for gram in (*grams, *other_grams)])
    sound = jnp.all((traces > 1 / _SOUND) & (traces < _SOUND))
    return jnp.where(zero, 0.0, jnp.clip(inner, -1.0, 1.0)), zero, sound


def _grams(first, second) -> tuple[jax.Array, jax.Array]:
    """``B₁ᵀB₂`` and ``A₁A₂ᵀ``, both ``[r, r]``: the sum of their entrywise product is ``⟨B₁A₁, B₂A₂⟩_F``."""
    return matmul(first["b"].T, second["b"]), matmul(first["a"], second["a"].T)


def _cosines(prepare, *trees) -> tuple[PerModule, PerModule]:
    """Cosines of the pairs that ``prepare`` makes of a layer's leaves, and whether one of a pair is zero.

    Factors are scaled first only in modules where something would over- or underflow.
    """

    def pair(*leaves):
        return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), prepare(*leaves))

    def one_module(*stacks):
        cosine, zero, sound = map_layers(lambda *leaves: _cosine(*pair(*leaves)), *stacks)
        return jax.lax.cond(
            jnp.all(sound),
            lambda: (cosine, zero),
            lambda: map_layers(lambda *leaves: _cosine(*map(scale_factors, pair(*leaves)))[:2], *stacks),
        )

    found = {name: one_module(*(tree[name] for tree in trees)) for name in module_names(trees[0])}
    return {m: cosine for m, (cosine, _) in found.items()}, {m: zero for m, (_, zero) in found.items()}


def _masked(factors, mask):
    return jax.tree.map(lambda leaf, m: jnp.where(m, leaf, 0), factors, mask)


@jax.jit
def masked_cosine(reference: Adapter, finetuned: Adapter, masks) -> tuple[PerModule, PerModule]:
    """Return the similarities and, per module, whether one of the masked products was zero.

    Args:
      reference, finetuned: adapters of equal structure.
      masks: bool tree of their factors.

    Returns:
      ``({module: [L] float32}, {module: [L] bool})``.
    """
    return _cosines(lambda e, t, m: (_masked(e, m), _masked(t, m)), reference.factors, finetuned.factors, masks)


@jax.jit
def product_cosine(first: Adapter, second: Adapter) -> PerModule:
    """Return the cosine of the weight updates ``B A`` of two adapters, per module; 0 where one is zero.

    Args:
      first, second: adapters of the same modules and layers; their ranks may differ.

    Returns:
      ``{module: [L]}`` float32 in [−1, 1].
    """
    return _cosines(lambda x, y: (x, y), first.factors, second.factors)[0]


def check_masks(adapter: Adapter, masks, name: str = "masks") -> None:
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


def similarity(reference: Adapter, finetuned: Adapter, masks) -> PerModule:
    """Return S_j, the cosine of the masked products of reference and fine-tuned, per module.

    ``S_j = ⟨W'_e, W'_t⟩_F / (‖W'_e‖_F ‖W'_t‖_F)`` with ``W' = (M_B∘B)(M_A∘A)``; 0 where a norm is 0.

    Args:
      reference: W_e, factors ``a [L, r, k]`` and ``b [L, d, r]``.
      finetuned: W_t, same shapes.
      masks: ``{module: {"a": [L, r, k], "b": [L, d, r]}}`` bool.

    Returns:
      ``{module: [L]}`` float32 in [−1, 1].

    Raises:
      InputError: the adapters or masks do not fit each other.
    """
    check_same_structure(reference, finetuned, ("reference", "fine-tuned"))
    check_masks(reference, masks)
    return masked_cosine(reference, finetuned, masks)[0]
