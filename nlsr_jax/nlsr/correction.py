"""Neuron-level correction: transplant the safety-critical entries of the reference.

Axis legend: L layers, r rank, k in-features, d out-features.
Source: NLSR, neuron-level correction; "factors" is the authors' implementation, "product" the paper's equation.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from nlsr_jax.adapter import Adapter, PerModule, check_same_structure
from nlsr_jax.errors import InputError
from nlsr_jax.nlsr.layerwise import map_modules
from nlsr_jax.nlsr.settings import SPACES
from nlsr_jax.nlsr.similarity import check_masks
from nlsr_jax.types import Masks


def moved(t: Any, e: Any, strength: float) -> jax.Array:
    """Return the fine-tuned values moved towards the reference's, in the type of the former; see ``correct``."""
    if strength == 1:
        return e.astype(t.dtype)
    own, other = (leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32)) for leaf in (t, e))
    return (own + strength * (other - own)).astype(t.dtype)  # equal values stay as they are


def _correct_factors(finetuned, reference, mask, pruned, *, strength):
    """Replace the masked entries of one layer, or return it bit for bit unchanged."""

    def one(t, e, m):
        return jnp.where(m & ~pruned, moved(t, e, strength), t)

    return jax.tree.map(one, finetuned, reference, mask)


def _correct_product(finetuned, reference, mask, pruned, *, strength):
    """Return rank-2r factors of ``W'_e + ((1−M_B)∘B_t)((1−M_A)∘A_t)``; a layer left alone is padded with 0."""

    def kept(t, m):
        return jnp.where(m & ~pruned, jnp.zeros((), t.dtype), t)

    def transplanted(t, e, m):
        return jnp.where(m & ~pruned, moved(t, e, strength), jnp.zeros((), t.dtype))

    own = jax.tree.map(kept, finetuned, mask)
    new = jax.tree.map(transplanted, finetuned, reference, mask)
    return {
        "a": jnp.concatenate([own["a"], new["a"]], axis=0),
        "b": jnp.concatenate([own["b"], new["b"]], axis=1),
    }


_CORRECT = {"factors": _correct_factors, "product": _correct_product}


@functools.partial(jax.jit, static_argnames=("space", "strength"))
def correct_checked(
    finetuned: Adapter, reference: Adapter, masks: Masks, pruned: PerModule, *, space: str, strength: float = 1.0
) -> Adapter:
    """Apply the correction to arguments that have already been checked; see ``correct``."""
    corrected = functools.partial(_CORRECT[space], strength=strength)
    factors = map_modules(corrected, finetuned.factors, reference.factors, masks, pruned)
    return dataclasses.replace(finetuned, factors=factors)


def check_space(space: str) -> None:
    """Raise InputError unless ``space`` is one of ``SPACES``."""
    if space not in SPACES:
        raise InputError(f"space is {space!r}; expected one of {', '.join(SPACES)}")


def check_strength(strength: float) -> None:
    """Raise InputError unless ``strength`` is a finite number above 0."""
    if not 0 < strength < float("inf"):
        raise InputError(f"strength is {strength}; expected a finite number above 0")


def correct(
    finetuned: Adapter,
    reference: Adapter,
    masks: Masks,
    pruned: PerModule,
    *,
    space: str = "factors",
    strength: float = 1.0,
) -> Adapter:
    """Transplant the safety-critical entries of the reference into the repaired modules.

    Under ``jit`` no values are checked: entries outside the range of the dtype become infinite or 0.
    ``save_adapter`` refuses values that are not finite.

    Args:
      finetuned: W_t, factors ``a [L, r, k]`` and ``b [L, d, r]``.
      reference: W_e, same shapes.
      masks: bool tree of the factors, True at safety-critical entries.
      pruned: ``{module: [L]}`` bool γ_j, True = left alone.
      space: ``"factors"``: ``A ← M_A∘A_e + (1−M_A)∘A_t``, the same for B, rank stays r;
        ``"product"``: ``W'_e + ((1−M_B)∘B_t)((1−M_A)∘A_t)`` without cross terms, exactly, as an
        adapter of rank 2r.
      strength: s: a transplanted entry becomes ``W_t + s (W_e − W_t)``. 1 is the paper's transplant. Above 1 it
        goes beyond the reference, away from what fine-tuning has made of it.

    Returns:
      The realigned adapter with the dtype, scaling and layers of ``finetuned``. Modules left alone
      are bit for bit those of the input (in product space: its rank-r factors, padded with zeros).

    Raises:
      InputError: if ``space`` is unknown, ``strength`` is not above 0, or the arguments do not match.
    """
    check_space(space)
    check_strength(strength)
    check_same_structure(finetuned, reference, ("fine-tuned", "reference"))
    check_masks(finetuned, masks)
    for module, leaf in finetuned.factors.items():
        if module not in pruned or pruned[module].shape != leaf["a"].shape[:1]:
            raise InputError(f"pruned: {module} must have one bool for each of {leaf['a'].shape[0]} layers")
    return correct_checked(finetuned, reference, masks, pruned, space=space, strength=strength)
