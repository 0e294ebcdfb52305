"""Leave a fixed slot of the rank axis out of the identification, and fill it in again.

Adapters that were lifted together with an aligned adapter hold its factors in the leading places of the rank axis,
equal in all of them; see ``nlsr_jax.lift``. A transplant changes nothing there, so that these entries are no
candidates. What is identified is the adapter of the other places.

Axis legend: L layers, r rank, k in-features, d out-features.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from nlsr_jax.adapter import Adapter
from nlsr_jax.errors import InputError
from nlsr_jax.nlsr.layerwise import map_layers
from nlsr_jax.nlsr.statistics import Statistics
from nlsr_jax.types import Masks

Fixed = Mapping[str, int]
"""Leading places of the rank axis that are no candidates, by module; 0 for a module that is missing."""


def check_fixed(adapter: Adapter, fixed: Fixed) -> None:
    """Raise InputError unless a candidate is left in every module."""
    for module, count in fixed.items():
        rank = adapter.factors[module]["a"].shape[1] if module in adapter.factors else count + 1
        if not 0 <= count < rank:
            raise InputError(f"fixed: {module} has {count} places; expected 0 to {rank - 1}, below its rank")


def candidates(factors: Any, fixed: Fixed) -> dict[str, dict[str, jax.Array]]:
    """Return the candidates of a tree of factors: ``{module: {"a": [L, r − f, k], "b": [L, d, r − f]}}``."""
    return {
        module: {"a": leaf["a"][:, fixed.get(module, 0) :], "b": leaf["b"][:, :, fixed.get(module, 0) :]}
        for module, leaf in factors.items()
    }


def candidates_of(adapter: Adapter, fixed: Fixed) -> Adapter:
    """Return an adapter of the candidates alone."""
    return dataclasses.replace(adapter, factors=candidates(adapter.factors, fixed))


def candidates_statistics(statistics: Statistics, fixed: Fixed) -> Statistics:
    """Return the statistics of the candidates: their rows and columns of the Gram matrices, and a root of these."""

    def gram(module, matrix):
        return matrix[:, fixed.get(module, 0) :, fixed.get(module, 0) :]

    def root(module, matrix):
        if not fixed.get(module, 0):
            return matrix
        kept = matrix[:, :, fixed[module] :]
        return map_layers(lambda one: jnp.linalg.qr(one, mode="r"), kept, factorises=True)

    return statistics._replace(
        gram={module: gram(module, matrix) for module, matrix in statistics.gram.items()},
        root={module: root(module, matrix) for module, matrix in statistics.root.items()},
    )


def with_fixed(masks: Masks, fixed: Fixed) -> Masks:
    """Return masks of the whole rank axis, False in the fixed places, from masks of the candidates."""

    def filled(leaf, axis, count):
        return jnp.pad(leaf, [(count if i == axis else 0, 0) for i in range(3)]) if count else leaf

    return {
        module: {f: filled(leaf[f], axis, fixed.get(module, 0)) for f, axis in (("a", 1), ("b", 2))}
        for module, leaf in masks.items()
    }
