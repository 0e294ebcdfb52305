"""Identification of safety-critical neurons: score all factor entries, and mask the top ones.

Axis legend: L layers, r rank, k in-features, d out-features.
Source: NLSR, section on identification; Wanda (Sun et al. 2024), SNIP (Lee et al. 2019).
"""

import functools
import zlib
from collections.abc import Callable

import jax
import jax.numpy as jnp

from nlsr_jax import hardware
from nlsr_jax.adapter import Adapter, check_adapter, check_same_structure, module_names
from nlsr_jax.errors import InputError
from nlsr_jax.nlsr.candidates import (
    Fixed,
    candidates,
    candidates_of,
    candidates_statistics,
    check_fixed,
    with_fixed,
)
from nlsr_jax.nlsr.layerwise import map_layers
from nlsr_jax.nlsr.low_rank import kept_rank, project_layer
from nlsr_jax.nlsr.masks import (
    HostTree,
    host_mask_layers,
    host_mask_tree,
    mask_factor,
    mask_tree,
)
from nlsr_jax.nlsr.settings import GRANULARITIES, METHODS, NEEDS_FINETUNED, NEEDS_GRADIENTS, NEEDS_STATISTICS
from nlsr_jax.nlsr.statistics import Statistics
from nlsr_jax.types import Gradients, Masks


def identify(
    reference: Adapter,
    statistics: Statistics | None = None,
    *,
    sparsity: float = 0.8,
    method: str = "low_rank",
    granularity: str = "tensor",
    key: jax.Array | None = None,
    gradients: Gradients | None = None,
    finetuned: Adapter | None = None,
    fixed: Fixed | None = None,
) -> Masks:
    """Mark the safety-critical entries of every factor of the reference adapter.

    Scores: ``low_rank`` |Ŵ| with Ŵ = U Uᵀ W of rank r* = round(r·(1−P_SR)); ``wanda``
    |W_ij|·‖X_j‖₂; ``snip`` and ``preference_snip`` |W_ij|·E|∂L/∂W_ij|; ``random`` uniform from
    ``key``; ``magnitude`` |W_ij|. Exactly the largest ``round((1−P_SR)·size)`` are kept. ``gain``, which is not in
    the paper, is ``max(0, −∂L/∂W_ij · (W_e − W_t)_ij)`` with the gradient at the fine-tuned adapter: the
    first-order decrease of the loss on safe answers if the entry is transplanted. Entries without a gain are not
    kept.

    Args:
      reference: W_e, factors ``a [L, r, k]`` and ``b [L, d, r]``.
      statistics: of the reference on the calibration data; required by ``low_rank`` and ``wanda``.
      sparsity: P_SR in (0, 1), the share of entries that are not safety-critical.
      method: one of ``METHODS``.
      granularity: ``"tensor"`` (one threshold per factor and layer), ``"row"`` (per row) or ``"adapter"`` (one
        for all entries).
      key: PRNG key, required by ``random``.
      gradients: factors tree. For ``snip`` (negative log-likelihood) and ``preference_snip`` (DPO loss) the mean
        |∂L/∂W| over examples, see ``collect_gradients``; for ``gain`` the mean ∂L/∂W at ``finetuned``, see
        ``collect_loss_gradient``.
      finetuned: W_t, required by ``gain``.
      fixed: ``{module: f}``: the first f places of the rank axis are no candidates, as the slot of Wₐ in adapters
        that were lifted with an aligned adapter and a direction. They are not marked, and shares are of all other
        entries.

    Returns:
      ``{module: {"a": [L, r, k], "b": [L, d, r]}}`` bool.

    Raises:
      InputError: if a setting is out of range, or a required argument is missing or does not match.
    """
    masks = identifier(
        reference,
        statistics,
        method=method,
        granularity=granularity,
        key=key,
        gradients=gradients,
        finetuned=finetuned,
        fixed=fixed,
    )
    return masks(sparsity)


def identifier(
    reference: Adapter,
    statistics: Statistics | None = None,
    *,
    method: str = "low_rank",
    granularity: str = "tensor",
    key: jax.Array | None = None,
    gradients: Gradients | None = None,
    finetuned: Adapter | None = None,
    fixed: Fixed | None = None,
) -> Callable[[float], Masks]:
    """Return ``identify`` as a function of the sparsity, for several of them.

    On the CPU, scores that share one threshold are computed and sorted once.

    Args:
      reference, statistics, method, granularity, key, gradients, finetuned, fixed: see ``identify``.

    Raises:
      InputError: see ``identify``; a sparsity out of its range when the function is called.
    """
    _check(reference, statistics, method, granularity, key, gradients)
    if fixed and any(fixed.values()):
        check_fixed(reference, fixed)
        found = identifier(
            candidates_of(reference, fixed),
            None if statistics is None else candidates_statistics(statistics, fixed),
            method=method,
            granularity=granularity,
            key=key,
            gradients=None if gradients is None else candidates(gradients, fixed),
            finetuned=None if finetuned is None else candidates_of(finetuned, fixed),
        )
        return lambda sparsity: with_fixed(found(sparsity), fixed)
    factors = reference.factors
    if method in NEEDS_FINETUNED:
        if finetuned is None:
            raise InputError(f"method {method!r} compares with the fine-tuned adapter: give finetuned")
        check_same_structure(reference, finetuned, ("reference", "fine-tuned"))
        factors = _difference(reference.factors, finetuned.factors)
    evidence = (
        statistics if method in NEEDS_STATISTICS else None,
        key if method == "random" else None,
        gradients if method in NEEDS_GRADIENTS else None,
    )
    way = _on_host if hardware.selects_on_host((factors, *evidence)) else _compiled
    masks = way(factors, *evidence, method=method, granularity=granularity)

    def checked(sparsity: float) -> Masks:
        check_sparsity(sparsity)
        return masks(float(sparsity))

    return checked


def check_sparsity(sparsity: float) -> None:
    """Raise InputError unless ``0 < sparsity < 1``."""
    if not 0 < sparsity < 1:
        raise InputError(f"sparsity is {sparsity}; expected a number between 0 and 1, both excluded")


def _check(reference, statistics, method, granularity, key, gradients):
    check_adapter(reference, "reference")
    if method not in METHODS:
        raise InputError(f"method is {method!r}; expected one of {', '.join(METHODS)}")
    if granularity not in GRANULARITIES:
        raise InputError(f"granularity is {granularity!r}; expected one of {', '.join(GRANULARITIES)}")
    if method == "random" and key is None:
        raise InputError("method 'random' draws its scores: give key=jax.random.key(seed)")
    if method in NEEDS_GRADIENTS:
        if gradients is None:
            raise InputError(f"method {method!r} needs gradients; see collect_gradients")
        _check_gradients(reference, gradients)
    if method in NEEDS_STATISTICS:
        if statistics is None:
            raise InputError(f"method {method!r} needs statistics; see collect_statistics")
        _check_statistics(reference, statistics, squares=method == "wanda")


def _check_gradients(reference, gradients):
    expected = jax.tree.map(jnp.shape, reference.factors)
    if jax.tree.map(jnp.shape, dict(gradients)) != expected:
        raise InputError("gradients do not have the shapes of the reference's factors")


def _check_statistics(reference, statistics, squares):
    if squares and not statistics.input_square:
        raise InputError("method 'wanda' needs input_square; collect the statistics with input_squares=True")
    for module in module_names(reference.factors):
        count, rank, features = reference.factors[module]["a"].shape
        found = module in statistics.gram and statistics.gram[module].shape
        square = statistics.input_square and statistics.input_square[module].shape
        if found != (count, rank, rank) or (square and square != (count, features)):
            raise InputError(
                f"statistics of {module}: gram is {found or 'missing'}, expected {(count, rank, rank)}; "
                "collect them with this reference adapter"
            )


def _low_rank_scores(factors, gram, square, root, grads, key, sparsity):
    projected = project_layer(factors, gram, root, kept_rank(gram.shape[-1], sparsity))
    return jax.tree.map(jnp.abs, projected)


def _wanda_scores(factors, gram, square, root, grads, key, sparsity):
    return {
        "a": jnp.abs(factors["a"]) * jnp.sqrt(square),
        "b": jnp.abs(factors["b"]) * jnp.sqrt(jnp.diagonal(gram)),
    }


def _snip_scores(factors, gram, square, root, grads, key, sparsity):
    return jax.tree.map(lambda w, g: jnp.abs(w * g), factors, grads)


def _random_scores(factors, gram, square, root, grads, key, sparsity):
    key_a, key_b = jax.random.split(key)
    return {
        "a": jax.random.uniform(key_a, factors["a"].shape),
        "b": jax.random.uniform(key_b, factors["b"].shape),
    }


def _magnitude_scores(factors, gram, square, root, grads, key, sparsity):
    return jax.tree.map(jnp.abs, factors)


def _gain_scores(factors, gram, square, root, grads, key, sparsity):
    """Score the differences W_e − W_t, which ``factors`` holds here."""
    return jax.tree.map(lambda change, g: jnp.maximum(-change * g, 0.0), factors, grads)


_SCORES = {
    "low_rank": _low_rank_scores,
    "wanda": _wanda_scores,
    "snip": _snip_scores,
    "preference_snip": _snip_scores,
    "random": _random_scores,
    "magnitude": _magnitude_scores,
    "gain": _gain_scores,
}


def module_stream(key: jax.Array, module: str) -> jax.Array:
    """Return the PRNG key of a module name; it does not depend on which other modules are adapted."""
    return jax.random.fold_in(key, zlib.crc32(module.encode()))


@jax.jit
def _difference(first, second):
    return jax.tree.map(lambda x, y: x.astype(jnp.float32) - y.astype(jnp.float32), first, second)


def _evidence(module, count, statistics, key, gradients):
    """Return the inputs of the scores for the ``count`` layers of one module; None for those not needed."""
    gram = square = root = None
    if statistics is not None:
        gram, root = statistics.gram[module], statistics.root[module]
        square = statistics.input_square.get(module)
    grads = None if gradients is None else gradients[module]
    keys = None if key is None else jax.random.split(module_stream(key, module), count)
    return gram, square, root, grads, keys


def _layer_scores(leaf, gram, square, root, grads, key, *, sparsity, method):
    leaf = jax.tree.map(lambda w: w.astype(jnp.float32), leaf)
    return _SCORES[method](leaf, gram, square, root, grads, key, sparsity)


@functools.partial(jax.jit, static_argnames=("sparsity", "method"))
def _module_scores(leaf, evidence, *, sparsity, method):
    one_layer = functools.partial(_layer_scores, sparsity=sparsity, method=method)
    return map_layers(one_layer, leaf, *evidence, factorises=method == "low_rank")


def _host_scores(factors, *evidence, sparsity, method):
    """Yield a module's name and its scores; those that do not depend on it have one program for every sparsity."""
    static = {"sparsity": sparsity if method == "low_rank" else None, "method": method}
    for module in module_names(factors):
        leaf = factors[module]
        yield module, _module_scores(leaf, _evidence(module, leaf["a"].shape[0], *evidence), **static)


def _on_host(factors, *evidence, method, granularity):
    """Do the same as ``_compiled`` module by module, with masks computed by NumPy."""
    if granularity != "adapter" or method == "low_rank":
        return _at(_identify_on_host, factors, *evidence, method=method, granularity=granularity)
    scores = dict(_host_scores(factors, *evidence, sparsity=None, method=method))
    tree = HostTree(scores)
    return lambda sparsity: _without_zeros(tree.mask(sparsity), scores, method)


def _identify_on_host(factors, *evidence, sparsity, method, granularity):
    found = _host_scores(factors, *evidence, sparsity=sparsity, method=method)
    if granularity == "adapter":
        return host_mask_tree(dict(found), sparsity)
    masks: dict = {}
    for module, leaf in found:
        scores = {module: leaf}
        masks |= _without_zeros(host_mask_layers(scores, sparsity, granularity), scores, method)
    return masks


def _compiled(*given, **static):
    return _at(_identify, *given, **static)


def _at(way, *given, **static):
    """Return ``way`` as a function of the sparsity alone."""
    return lambda sparsity: way(*given, sparsity=sparsity, **static)


@functools.partial(jax.jit, static_argnames=("sparsity", "method", "granularity"))
def _identify(factors, *evidence, sparsity, method, granularity):
    def one_layer(*arguments):
        scores = _layer_scores(*arguments, sparsity=sparsity, method=method)
        if granularity == "adapter":
            return scores
        masks = jax.tree.map(lambda s: mask_factor(s, sparsity, granularity), scores)
        return _without_zeros(masks, scores, method)

    found = {}
    for module in module_names(factors):
        read = _evidence(module, factors[module]["a"].shape[0], *evidence)
        found[module] = map_layers(one_layer, factors[module], *read, factorises=method == "low_rank")
    if granularity != "adapter":
        return found
    return _without_zeros(mask_tree(found, sparsity), found, method)


def _without_zeros(masks, scores, method):
    """Drop entries without a gain; other methods keep their count regardless of the scores."""
    return _positive(masks, scores) if method == "gain" else masks


@jax.jit
def _positive(masks, scores):
    return jax.tree.map(lambda mask, score: mask & (score > 0), masks, scores)
