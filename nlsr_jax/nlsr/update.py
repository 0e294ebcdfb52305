"""The customer's update: what the fine-tuning added to the aligned model, in factors of its own rank axis.

For adapters on one base the aligned model is base + Wₐ, and the customer's update is D = B_t A_t − Bₐ Aₐ, of rank
at most r + rₐ. Its factors may be turned by any invertible matrix without a change of D; masks compare entries, so
the choice matters. Singular vectors gather the customer's task in few entries, a random rotation spreads it over
all.

Axis legend: L layers, r rank, k in-features, d out-features.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from nlsr_jax.adapter import (
    Adapter,
    check_adapter,
    check_same_structure,
    layer_indices,
    layer_scaling,
    module_names,
    truncate_layer,
)
from nlsr_jax.errors import InputError
from nlsr_jax.nlsr.layerwise import map_layers
from nlsr_jax.nlsr.statistics import matmul
from nlsr_jax.random_streams import stream

BASES = ("own", "svd", "turned")
"""Rank axes of an update: the factors' own, its singular vectors, or these turned by a random rotation."""


def factor_update(
    finetuned: Adapter, aligned: Adapter | None = None, *, basis: str = "turned", key: jax.Array | None = None
) -> Adapter:
    """Factor the customer's update D = W_t − Wₐ exactly.

    Args:
      finetuned: W_t, factors ``a [L, r, k]`` and ``b [L, d, r]``.
      aligned: Wₐ on the same base, factors ``a [L, rₐ, k]`` and ``b [L, d, rₐ]``; None for an adapter that was
        trained on the aligned model itself, whose update is W_t.
      basis: ``"own"``: ``[A_t; A_t − Aₐ]`` and ``[B_t − Bₐ, Bₐ]``, for adapters of equal rank, and without
        ``aligned`` the adapter unchanged; ``"svd"``: singular vectors, √σ in both factors; ``"turned"``: these
        times a random orthogonal matrix per layer and module.
      key: PRNG key of ``"turned"``.

    Returns:
      An adapter of D of rank ``min(r + rₐ, d, k)`` float32 with scaling 1; with ``basis="own"`` and no ``aligned``,
      ``finetuned`` itself.

    Raises:
      InputError: an unknown basis, a missing key, ``"own"`` for adapters of different ranks, or adapters that do
        not fit each other.
    """
    check_update(finetuned, aligned, basis)
    if basis == "turned" and key is None:
        raise InputError("basis 'turned' draws a rotation: give key=jax.random.key(seed)")
    if basis == "own" and aligned is None:
        return finetuned
    factors = {}
    for module in module_names(finetuned.factors):
        layers = layer_indices(finetuned, module)
        keys = None if basis != "turned" or key is None else rotation_keys(key, module, layers)
        other = None if aligned is None else scaled(aligned, module)
        factors[module] = update_layers(scaled(finetuned, module), other, basis=basis, keys=keys)
    return Adapter(factors, layers=finetuned.layers)


def check_update(finetuned: Adapter, aligned: Adapter | None, basis: str) -> None:
    """Check what ``factor_update`` takes, arrays or ``jax.ShapeDtypeStruct`` leaves."""
    if basis not in BASES:
        raise InputError(f"basis is {basis!r}; expected one of {', '.join(BASES)}")
    if aligned is None:
        check_adapter(finetuned, "finetuned")
        return
    check_same_structure(aligned, finetuned, ("aligned", "fine-tuned"), rank=False)
    for module in module_names(finetuned.factors):
        ranks = [one.factors[module]["a"].shape[1] for one in (aligned, finetuned)]
        if basis == "own" and ranks[0] != ranks[1]:
            raise InputError(
                f"basis 'own' takes adapters of one rank; {module} has rank {ranks[0]} in the aligned and "
                f"{ranks[1]} in the fine-tuned adapter: take basis 'turned'"
            )


def scaled(adapter: Adapter, module: str, rows: slice = slice(None)) -> dict[str, jax.Array]:
    """Return the factors of some layers of one module in float32, the scaling multiplied into ``b``."""
    leaf, scaling = adapter.factors[module], layer_scaling(adapter, module)[rows]
    b = jnp.asarray(leaf["b"])[rows].astype(jnp.float32) * scaling[:, None, None]
    return {"a": jnp.asarray(leaf["a"])[rows].astype(jnp.float32), "b": b}


def rotation_keys(key: jax.Array, module: str, layers: Sequence[int] | np.ndarray) -> jax.Array:
    """Return one key for each decoder layer of a module: rotations do not depend on how layers are read."""
    own = stream(stream(key, "basis"), module)
    return jax.vmap(lambda layer: jax.random.fold_in(own, layer))(jnp.asarray(np.asarray(layers, np.uint32)))


def update_rank(finetuned: int, aligned: int, d: int, k: int, basis: str) -> int:
    """Return the rank of the factors that ``update_layers`` makes."""
    return finetuned + aligned if basis == "own" else min(finetuned + aligned, d, k)


def update_layers(
    finetuned: dict[str, jax.Array],
    aligned: dict[str, jax.Array] | None = None,
    *,
    basis: str,
    keys: jax.Array | None = None,
) -> dict[str, jax.Array]:
    """Factor the update of some layers of one module.

    Args:
      finetuned, aligned: ``{"a": [L, r, k], "b": [L, d, r]}`` float32 with their scaling in ``b``.
      basis: see ``factor_update``.
      keys: ``[L]``, of ``"turned"``.

    Returns:
      ``{"a", "b"}`` float32 of rank ``update_rank(…)``.
    """
    if basis == "own":
        return finetuned if aligned is None else _own(finetuned, aligned)
    if aligned is not None:
        finetuned = {
            "a": jnp.concatenate([finetuned["a"], aligned["a"]], axis=1),
            "b": jnp.concatenate([finetuned["b"], -aligned["b"]], axis=2),
        }
    found = map_layers(_svd, finetuned, factorises=True)
    return found if keys is None else map_layers(_turn, found, keys, factorises=True)


@jax.jit
def _own(finetuned, aligned):
    return {
        "a": jnp.concatenate([finetuned["a"], finetuned["a"] - aligned["a"]], axis=1),
        "b": jnp.concatenate([finetuned["b"] - aligned["b"], aligned["b"]], axis=2),
    }


def _svd(leaf):
    size = min(*leaf["a"].shape, leaf["b"].shape[0])
    a, b = truncate_layer(leaf["a"], leaf["b"], size)
    return {"a": a, "b": b}


def _turn(leaf, key):
    rotation = jax.random.orthogonal(key, leaf["a"].shape[0])
    return {"a": matmul(rotation, leaf["a"]), "b": matmul(leaf["b"], rotation.T)}
