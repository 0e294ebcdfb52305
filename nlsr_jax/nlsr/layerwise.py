"""Apply a function to each layer of stacked arrays, with bounded memory per step."""

from collections.abc import Callable, Mapping
from typing import Any

import jax

from nlsr_jax import hardware
from nlsr_jax.adapter import module_names

CHUNK_BYTES = 2**24
"""Maximum bytes per batch of layers: small stacks run as one vmap, large ones stay in cache."""


def map_layers(function: Callable, *stacks: Any, chunk_bytes: int = CHUNK_BYTES, factorises: bool = False) -> Any:
    """Map ``function`` over the leading axis L of trees of stacked arrays.

    Args:
      function: takes one layer of each tree and returns a tree.
      *stacks: trees whose leaves all have the same leading axis.
      chunk_bytes: maximum bytes of input per step of the loop.
      factorises: whether the function calls matrix factorisations (QR, SVD, Cholesky, solve); see
        ``hardware.factorises_one_by_one``.

    Returns:
      The stacked results.
    """
    leaves = jax.tree.leaves(stacks)
    count = leaves[0].shape[0]
    per_layer = sum(leaf.nbytes for leaf in leaves) // count
    batch = max(1, min(count, chunk_bytes // max(per_layer, 1)))
    if factorises and hardware.factorises_one_by_one():
        batch = 1
    if count == 1:  # matrix products of one layer run faster than a batch of one
        one = function(*jax.tree.map(lambda leaf: leaf[0], stacks))
        return jax.tree.map(lambda leaf: leaf[None], one)
    if batch == count:
        return jax.vmap(function)(*stacks)
    if batch == 1:
        return jax.lax.map(lambda one: function(*one), stacks)
    return jax.lax.map(lambda one: function(*one), stacks, batch_size=batch)


def map_modules(function: Callable, *trees: Mapping[str, Any], factorises: bool = False) -> dict[str, Any]:
    """Apply ``function`` to each layer of each module and return ``{module: stacked result}``.

    Args:
      function: takes one layer of each tree's module and returns a tree.
      *trees: per-module trees with stacked leaves; the first determines the modules.
      factorises: see ``map_layers``.
    """
    return {
        name: map_layers(function, *(tree[name] for tree in trees), factorises=factorises)
        for name in module_names(trees[0])
    }
