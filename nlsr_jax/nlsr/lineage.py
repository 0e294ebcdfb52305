"""Does the fine-tuned adapter descend from the aligned one, factor for factor?

``(A, B) → (Q A, B Q⁻¹)`` leaves the product as it is and moves every entry of the factors: the rank
axis is a gauge freedom. Masks and transplant compare entries, so both adapters must have kept the rank
axis of a common start. Training does; another start or a rotation puts the factors at right angles.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from nlsr_jax.adapter import Adapter, PerModule, check_same_structure, layer_indices, module_names
from nlsr_jax.nlsr.layerwise import map_layers
from nlsr_jax.nlsr.similarity import is_sound, scale_factor

RELATED = 0.1
"""Least cosine of a factor that has kept its rank axis; chance is about 1 / sqrt(its size)."""


def _cosine(first, second):
    """Cosine of two factors as they are, 0 where one is zero, and whether nothing over- or underflowed."""

    def inner(x, y):
        return jnp.sum(jnp.sum(x * y, axis=0))

    first, second = first.astype(jnp.float32), second.astype(jnp.float32)
    squares = jnp.stack([inner(first, first), inner(second, second)])
    square = jnp.prod(squares)
    cosine = inner(first, second) * jax.lax.rsqrt(jnp.where(square > 0, square, 1.0))
    return jnp.where(square > 0, cosine, 0.0), is_sound(squares)


@jax.jit
def _stack_cosines(stack, other):
    """Cosines ``[L]`` of two stacks of one factor; a program for a shape, whatever module it is of."""
    cosine, sound = map_layers(_cosine, stack, other)
    return jax.lax.cond(
        jnp.all(sound),
        lambda: cosine,
        lambda: map_layers(lambda *pair: _cosine(*map(scale_factor, pair))[0], stack, other),
    )


def lineage(aligned: Adapter, finetuned: Adapter) -> dict[str, PerModule]:
    """Measure the cosine of each factor of the fine-tuned adapter with the aligned one's.

    Args:
      aligned: Wₐ, factors ``a [L, r, k]`` and ``b [L, d, r]``.
      finetuned: W_t, same shapes.

    Returns:
      ``{module: {"a": [L], "b": [L]}}`` float32 in [−1, 1]; 0 for a factor that is zero.

    Raises:
      InputError: the adapters do not fit each other.
    """
    check_same_structure(aligned, finetuned, ("aligned", "fine-tuned"))
    return {
        module: jax.tree.map(_stack_cosines, aligned.factors[module], finetuned.factors[module])
        for module in module_names(aligned.factors)
    }


def unrelated_modules(adapter: Adapter, cosines: dict[str, PerModule]) -> list[str]:
    """Name the modules where neither factor has kept its rank axis.

    Args:
      adapter: the fine-tuned adapter, for names and sizes.
      cosines: from ``lineage``.

    Returns:
      Names such as ``"layer 3 q_proj"`` whose larger factor cosine is below ``RELATED`` (for very small
      factors: below four standard deviations of chance, at most 0.5).
    """
    names = []
    for module in module_names(cosines):
        leaf = adapter.factors[module]
        score = np.maximum(np.asarray(cosines[module]["a"]), np.asarray(cosines[module]["b"]))
        size = min(math.prod(leaf[f].shape[1:]) for f in ("a", "b"))
        bound = max(RELATED, min(0.5, 4 / size**0.5))
        layers = layer_indices(adapter, module)
        names += [f"layer {layers[i]} {module}" for i in np.flatnonzero(score < bound)]
    return names
