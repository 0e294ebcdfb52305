"""Does the fine-tuned adapter descend from the aligned one, factor for factor?

This involves two questions. First, does the fine-tuned adapter still contain the aligned one? The products ``B A``
answer it, because no change of the rank axis affects them, and so does B, which every training initialises to zero.
A does not: trainers fix their default seed, so the A factors of two unrelated adapters start equal and hardly move.

Second, have both kept the same rank axis? ``(A, B) → (Q A, B Q⁻¹)`` does not change the product but changes every
entry of the factors. Masks and transplant compare entries; a rotation can make corresponding factors orthogonal.

Axis legend: L layers, r rank, k in-features, d out-features.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nlsr_jax.adapter import Adapter, PerModule, check_same_structure, layer_indices, module_names
from nlsr_jax.nlsr.basis import check_basis
from nlsr_jax.nlsr.layerwise import map_layers
from nlsr_jax.nlsr.similarity import is_sound, scale_factor
from nlsr_jax.nlsr.statistics import matmul

RELATED = 0.3
"""Mean cosine of the products from which an adapter counts as a descendant without further evidence."""
RELATED_FAR = 0.1
"""The same for an adapter that was trained much further and has also kept the aligned products. Measured
descendants range from 0.14 to 1; adapters that share a seed, a base and even the kind of task reach up to 0.12."""
KEPT = 0.4
"""Minimum share of the aligned products that a descendant keeps. Further training hardly removes what was there:
measured descendants keep 0.55 to 1, adapters that share a seed up to 0.13."""
KEPT_MOST = 2.5
"""Maximum share kept: above it, an adapter is so large that a chance similarity looks like this; a strengthened
adapter reaches ``RELATED`` instead."""
SAME_AXIS = 0.1
"""Minimum cosine of one of the factors of a module that has kept its rank axis."""
SAME_AXIS_FITTED = 0.4
"""The same if a basis was fitted, beyond the chance level of the fit, and the spread of that level."""
FAINT = 0.05
"""Cosine below which the products of a single module have little in common."""


def _cosine(first, second):
    """Return the cosine of two unscaled factors (0 if one is zero), and whether nothing over- or underflowed."""

    def inner(x, y):
        return jnp.sum(jnp.sum(x * y, axis=0))

    first, second = first.astype(jnp.float32), second.astype(jnp.float32)
    squares = jnp.stack([inner(first, first), inner(second, second)])
    square = jnp.prod(squares)
    cosine = inner(first, second) * jax.lax.rsqrt(jnp.where(square > 0, square, 1.0))
    return jnp.where(square > 0, cosine, 0.0), is_sound(squares)


@jax.jit
def _stack_cosines(stack, other):
    """Return cosines ``[L]`` of two stacks of one factor; modules of one shape share the compiled program."""
    cosine, sound = map_layers(_cosine, stack, other)
    return jax.lax.cond(
        jnp.all(sound),
        lambda: cosine,
        lambda: map_layers(lambda *pair: _cosine(*map(scale_factor, pair))[0], stack, other),
    )


def factor_cosines(stacks: Mapping[str, jax.Array], others: Mapping[str, jax.Array]) -> PerModule:
    """Return the cosines ``{"a": [L], "b": [L]}`` of one module's factors in two adapters; 0 for zero factors."""
    return jax.tree.map(_stack_cosines, stacks, others)


def _products(aligned, finetuned):
    """Return the cosine of two layers' products, and ⟨B_t A_t, Bₐ Aₐ⟩ / ‖Bₐ Aₐ‖²; both 0 if a product is zero."""

    def gram(one, other):
        return matmul(one["b"].T, other["b"]) * matmul(one["a"], other["a"].T)

    def larger(factor):
        """Return how many times larger the fine-tuned factor is, limited to what float32 can multiply."""
        one, other = (jnp.max(jnp.abs(layer[factor])).astype(jnp.float32) for layer in (finetuned, aligned))
        return jnp.clip(one / jnp.where(other > 0, other, 1.0), 1e-12, 1e12)

    scaled = [jax.tree.map(scale_factor, layer) for layer in (aligned, finetuned)]
    own, other, inner = (jnp.sum(gram(scaled[i], scaled[j])) for i, j in ((0, 0), (1, 1), (1, 0)))
    zero = (own <= 0) | (other <= 0)
    cosine = inner * jax.lax.rsqrt(jnp.where(zero, 1.0, own)) * jax.lax.rsqrt(jnp.where(zero, 1.0, other))
    kept = inner / jnp.where(zero, 1.0, own) * larger("a") * larger("b")
    return jnp.where(zero, 0.0, jnp.clip(cosine, -1.0, 1.0)), jnp.where(zero, 0.0, kept)


@jax.jit
def _stack_products(stack, other):
    return map_layers(_products, stack, other)


def lineage(aligned: Adapter, finetuned: Adapter) -> dict[str, PerModule]:
    """Compare the fine-tuned adapter's factors and products with the aligned ones.

    Args:
      aligned: Wₐ, factors ``a [L, r, k]`` and ``b [L, d, r]``.
      finetuned: W_t, same shapes.

    Returns:
      ``{module: {"a": [L], "b": [L], "product": [L], "kept": [L]}}`` float32. The first three are cosines in
      [−1, 1] of the factors and of the products ``B A``; ``kept`` is the share of the aligned product contained in
      the fine-tuned one, ``⟨B_t A_t, Bₐ Aₐ⟩ / ‖Bₐ Aₐ‖²``. Zero inputs give 0. Products are compared through the
      rank axis, without forming any ``[d, k]`` matrix.

    Raises:
      InputError: if the adapters do not match.
    """
    check_same_structure(aligned, finetuned, ("aligned", "fine-tuned"))
    found = {}
    for module in module_names(aligned.factors):
        pair = aligned.factors[module], finetuned.factors[module]
        product, kept = _stack_products(*pair)
        found[module] = {**factor_cosines(*pair), "product": product, "kept": kept}
    return found


class Verdict(NamedTuple):
    """The conclusions from the results of ``lineage``.

    Attributes:
      product, b, a: mean cosines over the measured modules; NaN if there are none.
      kept: median share of the aligned products that these modules keep; NaN if it was not measured.
      descends: whether the adapter as a whole descends from the aligned one.
      measured: number of measured modules: those in which no product is zero.
      unrelated: names, such as ``"layer 3 q_proj"``, of modules unrelated to the aligned ones; all modules if the
        adapter as a whole is unrelated.
      turned: modules whose products are related but whose factors have not kept the rank axis.
      faint: other modules whose products have little in common with the aligned ones.
    """

    product: float
    b: float
    a: float
    kept: float
    descends: bool
    measured: int
    unrelated: tuple[str, ...]
    turned: tuple[str, ...]
    faint: tuple[str, ...]


class _Rows(NamedTuple):
    """All layers of all modules as host arrays ``[N]``."""

    names: list[str]
    a: np.ndarray
    b: np.ndarray
    product: np.ndarray
    kept: np.ndarray
    k: np.ndarray
    d: np.ndarray
    rank: np.ndarray


def _rows(adapter: Adapter, figures) -> _Rows:
    names: list[str] = []
    columns: list[list[np.ndarray]] = []
    for module in module_names(figures):
        leaf, found = adapter.factors[module], figures[module]
        (_, rank, k), d = leaf["a"].shape, leaf["b"].shape[1]
        layers = layer_indices(adapter, module)
        unknown = np.full(len(layers), math.nan)
        names += [f"layer {layer} {module}" for layer in layers]
        values = [found["a"], found["b"], found.get("product", found["b"]), found.get("kept", unknown)]
        sizes = [np.full(len(layers), size) for size in (k, d, rank)]
        columns.append([*(np.asarray(value, np.float64) for value in values), *sizes])
    return _Rows(names, *(np.concatenate(column) for column in zip(*columns, strict=True)))


def _beyond_fit(cosine, rank, size):
    """Return a cosine minus the chance level of fitting a basis, whose r numbers per row explain r / size of it."""
    share = np.minimum(rank / size, 1)
    left = np.where(share < 1, (cosine**2 - share) / np.where(share < 1, 1 - share, 1), 0)
    return np.sign(cosine) * np.sqrt(np.maximum(left, 0))


def judge_lineage(adapter: Adapter, figures: dict[str, PerModule], *, basis: str = "as_is") -> Verdict:
    """Judge whether an adapter descends from the aligned one.

    The adapter as a whole descends if the mean cosines of the products and of B reach ``RELATED``, or
    ``RELATED_FAR`` if the products have also kept the aligned ones (``KEPT`` to ``KEPT_MOST``). For few and small
    modules the threshold rises to four standard deviations of chance, at most 0.5; the chance level is 1 / √(d r)
    for a module whose A started equal. Modules with a zero B are not measured; if there are no others, the adapter
    does not count as a descendant. In each module one of the factors must have kept its rank axis.

    If a basis was fitted, only the products, which no basis affects, decide about the adapter as a whole, and the
    cosines of the factors are reduced by the chance level of fitting r × r numbers: √(r / k) for A and √(r / d) for
    B.

    Args:
      adapter: the fine-tuned adapter, for names and sizes; arrays or ``jax.ShapeDtypeStruct`` leaves.
      figures: result of ``lineage``; if it has no cosines of products, those of B are used.
      basis: basis of the fine-tuned factors; see ``nlsr_jax.nlsr.basis.common_basis``.

    Returns:
      A ``Verdict``.

    Raises:
      InputError: if the basis is unknown.
    """
    check_basis(basis)
    rows, fitted = _rows(adapter, figures), basis != "as_is"
    known = (rows.product != 0) & (rows.b != 0)
    if not known.any():
        nothing = math.nan
        return Verdict(nothing, nothing, nothing, nothing, False, 0, tuple(rows.names), (), ())
    product, b, a = (float(np.mean(values[known])) for values in (rows.product, rows.b, rows.a))
    kept = float(np.median(rows.kept[known]))
    chance = 1 / np.sqrt(rows.d * rows.rank)
    spread = float(np.sqrt(np.sum(chance[known] ** 2))) / known.sum()
    far = KEPT <= kept <= KEPT_MOST  # False for NaN
    bound = max(RELATED_FAR if far else RELATED, min(0.5, 4 * spread))
    related, descends = product >= bound, bool((product if fitted else min(product, b)) >= bound)
    axis = _axis(rows, fitted)
    faint = rows.product < np.maximum(FAINT, np.minimum(0.3, 2 * chance))
    unrelated = (~axis & faint) | (not related)
    turned = ~unrelated & (~axis | (not descends))
    names = [_chosen(rows, flags) for flags in (unrelated, turned, known & faint & ~unrelated & ~turned)]
    return Verdict(product, b, a, kept, descends, int(known.sum()), *names)


def _axis(rows: _Rows, fitted: bool) -> np.ndarray:
    """Return whether one of the factors of each module has kept its rank axis."""
    a, b = rows.a, rows.b
    if fitted:
        a, b = _beyond_fit(a, rows.rank, rows.k), _beyond_fit(b, rows.rank, rows.d)
    size = rows.rank * np.minimum(rows.k, rows.d)
    chance = np.maximum(4 / np.sqrt(size), 2 / rows.rank)  # of unrelated entries, and of a random rotation
    return np.maximum(a, b) >= np.maximum(SAME_AXIS_FITTED if fitted else SAME_AXIS, np.minimum(0.5, chance))


def _chosen(rows: _Rows, flags) -> tuple[str, ...]:
    return tuple(rows.names[i] for i in np.flatnonzero(flags))


def other_axis(adapter: Adapter, figures: dict[str, PerModule]) -> list[str]:
    """List the modules in which neither factor has kept its rank axis, such as ``"layer 3 q_proj"``.

    Args:
      adapter: the compared adapter, for names and sizes.
      figures: result of ``lineage``; modules that are zero count as kept.
    """
    rows = _rows(adapter, figures)
    return list(_chosen(rows, ~_axis(rows, fitted=False) & ((rows.a != 0) | (rows.b != 0))))


def unrelated_modules(adapter: Adapter, figures: dict[str, PerModule], *, basis: str = "as_is") -> list[str]:
    """List the modules that do not descend from the aligned ones, factor for factor.

    Args:
      adapter: the fine-tuned adapter, for names and sizes.
      figures: result of ``lineage``.
      basis: basis of the fine-tuned factors; see ``nlsr_jax.nlsr.basis.common_basis``.

    Returns:
      Names such as ``"layer 3 q_proj"`` of modules that are unrelated to the aligned ones or have not kept the rank
      axis; all modules if the adapter as a whole does not descend. See ``judge_lineage``.
    """
    verdict = judge_lineage(adapter, figures, basis=basis)
    found = {*verdict.unrelated, *verdict.turned}
    return [name for name in _rows(adapter, figures).names if name in found]
