"""How far a correction moves the products, through the rank axis; no d × k matrix is formed.

Axis legend: L layers, r rank, k in-features, d out-features.
"""

import functools

import jax
import jax.numpy as jnp

from nlsr_jax.adapter import Adapter, PerModule
from nlsr_jax.nlsr.correction import correct_checked
from nlsr_jax.nlsr.layerwise import map_modules
from nlsr_jax.nlsr.similarity import scale_factor
from nlsr_jax.nlsr.statistics import matmul
from nlsr_jax.types import Masks


def _norm(a, b):
    """Return ‖B A‖_F of one layer, ``a [r, k]`` and ``b [d, r]``."""
    return jnp.sqrt(jnp.maximum(jnp.sum(matmul(b.T, b) * matmul(a, a.T)), 0.0))


def _ratio(one, whole):
    return jnp.where(whole > 0, one / jnp.where(whole > 0, whole, 1.0), 0.0)


def _change(before, after):
    """Return ‖B'A' − B A‖ / ‖B A‖ from the exact differences of the factors, so that small changes keep digits."""
    old, new, step = {}, {}, {}
    for factor in ("a", "b"):
        one, two = (leaf[factor].astype(jnp.float32) for leaf in (before, after))
        largest = jnp.max(jnp.abs(one))
        scale = 1 / jnp.where(largest > 0, largest, 1.0)
        old[factor], new[factor], step[factor] = one * scale, two * scale, (two - one) * scale
    a = jnp.concatenate([new["a"], step["a"]])
    b = jnp.concatenate([step["b"], old["b"]], axis=1)
    return _ratio(_norm(a, b), _norm(old["a"], old["b"]))


@jax.jit
def change_size(before: Adapter, after: Adapter) -> PerModule:
    """Return ``{module: [L]}`` float32, ‖B'A' − B A‖_F / ‖B A‖_F; 0 where B A is zero.

    Args:
      before, after: adapters of equal structure and scaling.
    """
    return map_modules(_change, before.factors, after.factors)


@functools.partial(jax.jit, static_argnames="slot")
def share_taken(reference: Adapter, masks: Masks, slot: tuple[int, int]) -> PerModule:
    """Return how much of a slot of the reference's product the masks take, ‖(M_B∘B)A‖_F / ‖B A‖_F, at any strength.

    Args:
      reference: W_e, factors ``a [L, r, k]`` and ``b [L, d, r]``.
      masks: bool tree of the factors.
      slot: first place of the rank axis and the first behind the slot.

    Returns:
      ``{module: [L]}`` float32; 0 where the slot's product is zero.
    """

    def one(leaf, mask):
        places = slice(*slot)
        a, b = scale_factor(leaf["a"][places]), scale_factor(leaf["b"][:, places])
        return _ratio(_norm(a, jnp.where(mask["b"][:, places], b, 0.0)), _norm(a, b))

    return map_modules(one, reference.factors, masks)


@functools.partial(jax.jit, static_argnames="strength")
def correction_size(finetuned: Adapter, reference: Adapter, masks: Masks, strength: float = 1.0) -> PerModule:
    """Return ``change_size`` of a correction in factors of every module; see ``correct``."""
    pruned = {module: jnp.zeros(leaf["a"].shape[0], bool) for module, leaf in finetuned.factors.items()}
    options = {"space": "factors", "strength": strength}
    return change_size(finetuned, correct_checked(finetuned, reference, masks, pruned, **options))
