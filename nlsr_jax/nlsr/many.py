"""Many realignments of one adapter in one program: all base probabilities with all keys.

Axis legend: P base probabilities, S keys, L layers, r rank, k in-features, d out-features.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from nlsr_jax.adapter import Adapter, check_same_structure
from nlsr_jax.errors import InputError
from nlsr_jax.nlsr.correction import correct_checked
from nlsr_jax.nlsr.pruning import choose_pruned
from nlsr_jax.nlsr.realign import Realigned
from nlsr_jax.nlsr.similarity import check_masks, masked_cosine
from nlsr_jax.types import Masks


def realign_many(
    keys: jax.Array,
    finetuned: Adapter,
    reference: Adapter,
    masks: Masks,
    *,
    base_probabilities: Sequence[float],
    increment: float = 0.4,
) -> Realigned:
    """Realign with each base probability and each key, with the rule ``probability`` in factor space.

    The similarities, which do not depend on them, are computed once. Entry ``[i, j]`` of the result equals
    ``realign(keys[j], …, base_probability=base_probabilities[i])`` bit for bit.

    Args:
      keys: PRNG keys ``[S]``, such as ``jax.random.split(key, S)``.
      finetuned, reference, masks, increment: as for ``realign``.
      base_probabilities: P values of P_L.

    Returns:
      A ``Realigned`` whose leaves have leading axes ``[P, S]``, except ``similarity`` and ``zero_norm``, which are
      shared, and ``probability``, ``[P, L]`` for each module. All adapters are in memory together: ``P · S`` times
      the bytes of one.

    Raises:
      InputError: if keys or probabilities are empty, keys have another shape, or the arguments do not match.
    """
    if not jnp.issubdtype(keys.dtype, jax.dtypes.prng_key) or keys.ndim != 1 or not keys.size:
        raise InputError(f"keys are {keys.dtype} {list(keys.shape)}; expected PRNG keys [S], at least one")
    if not len(base_probabilities):
        raise InputError("base_probabilities are empty; expected at least one")
    check_same_structure(finetuned, reference, ("fine-tuned", "reference"))
    check_masks(finetuned, masks)
    similarity, zero_norm = masked_cosine(reference, finetuned, masks)
    probabilities = jnp.asarray(base_probabilities, jnp.float32)
    pruned, probability = _choose(keys, similarity, probabilities, jnp.float32(increment))
    adapter = _correct(finetuned, reference, masks, pruned)
    return Realigned(adapter, similarity, probability, pruned, zero_norm)


@jax.jit
def _choose(keys, similarity, probabilities, increment):
    def one(key, base_probability):
        settings = {"base_probability": base_probability, "increment": increment, "tau": jnp.float32(0)}
        return choose_pruned(key, similarity, settings, rule="probability")

    every_key = jax.vmap(one, in_axes=(0, None), out_axes=(0, None))
    return jax.vmap(every_key, in_axes=(None, 0))(keys, probabilities)


@jax.jit
def _correct(finetuned, reference, masks, pruned):
    def one(pruned):
        return correct_checked(finetuned, reference, masks, pruned, space="factors").factors

    return dataclasses.replace(finetuned, factors=jax.vmap(jax.vmap(one))(pruned))
