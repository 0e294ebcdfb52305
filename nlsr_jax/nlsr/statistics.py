"""Statistics of one pass over the calibration data: one r × r Gram matrix per module.

With ``z = A x`` at the response positions, ``G = Σ_t z_t z_tᵀ`` gives the left singular vectors both
of ``A X`` (those of ``G``) and of ``B A X`` (through a thin QR of ``B``), so the activations are never
stored. Forming ``G`` squares the condition number. Its triangular root ``R`` (``RᵀR = G``), updated
by a Cholesky QR that is repeated if necessary, keeps the small directions too, at the cost of matrix products.

Axis legend: L layers, B batch, T positions, r rank, k in-features.

Source: NLSR, section on identification; Yamamoto et al. 2015 and Fukaya et al. 2020 (Cholesky QR, shifted and
repeated).
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nlsr_jax import hardware
from nlsr_jax.adapter import Adapter, PerModule, module_names
from nlsr_jax.errors import InputError
from nlsr_jax.nlsr.layerwise import map_layers, map_modules

_EPS = float(jnp.finfo(jnp.float32).eps)
_TINY = float(jnp.finfo(jnp.float32).tiny)
_MANY_ENTRIES = 2**18
"""For rows with fewer entries, a second pass costs less than checking whether it is needed."""
_WELL_CONDITIONED = 64.0
"""If the eigenvalues of a Gram matrix lie within this factor, float32 rounding changes none by more than 1e-5."""
matmul = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


class Statistics(NamedTuple):
    """Sums over the response positions of the calibration data.

    Attributes:
      gram: ``{module: [L, r, r]}`` float32, ``Σ_t z_t z_tᵀ`` with ``z = A x``.
      input_square: ``{module: [L, k]}`` float32, ``Σ_t x_t²``; empty if not requested.
      root: ``{module: [L, r, r]}`` float32, ``R`` with ``RᵀR = gram``, accurate in the small
        directions where ``gram`` is not. Two roots combine by ``update_root``, not by addition; use
        ``merge``. (If a root does not reproduce its ``gram``, ``identify`` uses ``gram``.)
      positions: float32 scalar, the number of response positions.
      sequences: float32 scalar, the number of rows with at least one response position.
    """

    gram: PerModule
    input_square: PerModule
    root: PerModule
    positions: jax.Array
    sequences: jax.Array


def init_statistics(adapter: Adapter) -> Statistics:
    """Return empty statistics for the modules of ``adapter``: all sums are zero."""
    gram, square, root = {}, {}, {}
    for module in module_names(adapter.factors):
        count, rank, features = adapter.factors[module]["a"].shape
        gram[module] = jnp.zeros((count, rank, rank), jnp.float32)
        root[module] = jnp.zeros((count, rank, rank), jnp.float32)
        square[module] = jnp.zeros((count, features), jnp.float32)
    return Statistics(gram, square, root, jnp.zeros((), jnp.float32), jnp.zeros((), jnp.float32))


def cholesky_root(gram: jax.Array, shift: float | None = None) -> jax.Array:
    """Return the upper triangular ``R`` with ``RᵀR = gram + shift · trace(gram) · I``.

    Args:
      gram: ``[r, r]`` symmetric, positive semi-definite.
      shift: relative shift that keeps the factorisation from breaking down; by default the rounding
        error of a float32 Gram matrix.
    """
    rank = gram.shape[-1]
    shift = 4 * rank * _EPS if shift is None else shift
    level = jnp.maximum(shift * jnp.trace(gram), _TINY**0.5)
    return jnp.linalg.cholesky(gram + level * jnp.eye(rank, dtype=gram.dtype), upper=True)


def _semidefinite_root(gram):
    """Return an upper triangular root like Cholesky's for a matrix that is semi-definite up to rounding."""
    values, vectors = jnp.linalg.eigh(gram)
    root = jnp.linalg.qr(jnp.sqrt(jnp.maximum(values, 0.0))[:, None] * vectors.T, mode="r")
    return root * jnp.where(jnp.diagonal(root) < 0, -1.0, 1.0)[:, None]


def update_root(root: jax.Array, rows: jax.Array) -> jax.Array:
    """Fold new rows into a triangular root: the ``R`` of a QR of ``[root; rows]``.

    Shifted Cholesky QR: a first root of the plain Gram matrix whitens the rows, and the well-conditioned Gram
      matrix
    of the whitened rows corrects it. This needs only matrix products and two r × r factorisations. For large arrays
    of rows, the root of the plain Gram matrix is kept if it turns out to be well-conditioned.

    Args:
      root: ``[r, r]`` float32, the root so far (zeros for an empty one).
      rows: ``[n, r]`` float32, new ``z_t`` as rows; a masked position is a row of zeros.

    Returns:
      ``[r, r]`` float32 upper triangular ``R`` with ``RᵀR = rootᵀ root + rowsᵀ rows``; the relative
      error of its small singular values is about float32's, down to 1e-6 of the largest.
    """
    rank = root.shape[-1]
    gram = matmul(root.T, root) + matmul(rows.T, rows)

    def corrected():
        first = cholesky_root(gram)
        whiten = jax.scipy.linalg.solve_triangular(first, jnp.eye(rank, dtype=root.dtype))
        old, new = matmul(root, whiten), matmul(rows, whiten)
        whitened = matmul(old.T, old) + matmul(new.T, new)
        found = matmul(cholesky_root(whitened, _EPS / rank), first)
        # Rows of lower rank give eigenvalues of 0, which rounding may make negative.
        whole = jnp.all(jnp.isfinite(found))
        return jax.lax.cond(whole, lambda: found, lambda: matmul(_semidefinite_root(whitened), first))

    if rows.size < _MANY_ENTRIES or not hardware.branches(rank):
        return corrected()
    plain = cholesky_root(gram, _EPS / rank)
    # Tiny rows get a root of the smallest shift instead of their own.
    enough = (jnp.trace(gram) * (_EPS / rank) > _TINY**0.5) & (_condition(plain, gram) <= _WELL_CONDITIONED)
    return jax.lax.cond(enough, lambda: plain, corrected)


def well_conditioned(values: jax.Array) -> jax.Array:
    """Return whether the eigenvalues ``[r]`` of a positive semi-definite matrix, smallest first, lie close
    together.

    False for empty data, and for eigenvalues so small that float32 has lost digits of them.
    """
    return (values[0] * _WELL_CONDITIONED >= values[-1]) & (values[-1] > _TINY / _EPS)


def _condition(root, gram):
    """Return an estimate from 1 to √r times the condition number of ``gram``.

    ``root`` is its Cholesky root, whose shift must be below its rounding error.
    """
    inverse = jax.scipy.linalg.solve_triangular(root, jnp.eye(len(root), dtype=root.dtype))
    return _norm(gram) * _norm(matmul(inverse, inverse.T))


def _norm(x):
    """Return an estimate from 1 to r^(1/4) times the largest eigenvalue of a symmetric matrix."""
    level = jnp.trace(x)
    x = x / level
    return level * jnp.linalg.norm(matmul(x, x)) ** 0.5


def batch_statistics(
    x: jax.Array, z: jax.Array, mask: jax.Array, root: jax.Array | None = None, *, input_squares: bool = True
) -> dict[str, jax.Array]:
    """Return the sums of one module of one layer over one batch.

    Args:
      x: ``[..., k]`` module inputs, any float dtype.
      z: ``[..., r]`` the products ``A x``.
      mask: ``[...]`` bool, True at response positions.
      root: ``[r, r]`` root so far, or None to start.
      input_squares: whether to sum the squared inputs.

    Returns:
      ``{"gram": [r, r], "input_square": [k], "root": [r, r]}`` float32; ``gram`` and
      ``input_square`` are of this batch alone, ``root`` is of all batches so far.
    """
    keep = mask.reshape(-1, 1)
    x = x.reshape(-1, x.shape[-1])
    z = jnp.where(keep, z.reshape(-1, z.shape[-1]).astype(jnp.float32), 0.0)
    root = jnp.zeros((z.shape[-1],) * 2, jnp.float32) if root is None else root
    found = {"gram": matmul(z.T, z), "root": update_root(root, z)}
    if input_squares:
        found["input_square"] = jnp.sum(jnp.square(jnp.where(keep, x, 0).astype(jnp.float32)), axis=0)
    return found


def add_batch(
    statistics: Statistics, gram: PerModule, input_square: PerModule, root: PerModule, mask: jax.Array
) -> Statistics:
    """Add one batch, captured by a model, to the statistics.

    Args:
      statistics: the sums so far.
      gram, input_square: the sums of the batch.
      root: the roots after the batch.
      mask: ``[B, T]`` bool response positions of the batch.
    """
    return Statistics(
        jax.tree.map(jnp.add, statistics.gram, gram),
        jax.tree.map(jnp.add, statistics.input_square, input_square),
        root,
        statistics.positions + jnp.sum(mask, dtype=jnp.float32),
        statistics.sequences + jnp.sum(jnp.any(mask, axis=-1), dtype=jnp.float32),
    )


def merge(first: Statistics, second: Statistics) -> Statistics:
    """Return the statistics of two data sets together (from several hosts, or resumed runs).

    Args:
      first, second: statistics of the same adapter.

    Returns:
      The sums; roots are combined by ``update_root``.

    Raises:
      InputError: if only one of them has ``input_square``.
    """
    if bool(first.input_square) != bool(second.input_square):
        raise InputError("one of the statistics has input_square and the other has not; collect both alike")
    return _merge(first, second)


@jax.jit
def _merge(first: Statistics, second: Statistics) -> Statistics:
    return Statistics(
        jax.tree.map(jnp.add, first.gram, second.gram),
        jax.tree.map(jnp.add, first.input_square, second.input_square),
        map_modules(update_root, first.root, second.root, factorises=True),
        first.positions + second.positions,
        first.sequences + second.sequences,
    )


def statistics_from_activations(
    adapter: Adapter, inputs: PerModule, mask: PerModule | None = None, *, input_squares: bool = True
) -> Statistics:
    """Compute the statistics from explicit module inputs.

    Modules whose inputs (and masks) are the same array, such as ``q_proj``, ``k_proj`` and ``v_proj``, share one
    product.

    Args:
      adapter: the reference adapter.
      inputs: ``{module: [L, n, k]}`` module inputs at n positions.
      mask: ``{module: [L, n]}`` bool, True at response positions; None for all.
      input_squares: whether to sum ``input_square``, which ``wanda`` needs and ``low_rank`` does not.

    Returns:
      ``Statistics`` with ``positions`` taken from the first module and ``sequences`` 1.
    """
    modules = module_names(inputs)
    # A mapping may load an array on each access; keeping a reference preserves its identity.
    inputs = {module: inputs[module] for module in modules}
    mask = None if mask is None else {module: mask[module] for module in modules}
    groups: dict[tuple, list[str]] = {}
    for module in modules:
        groups.setdefault((id(inputs[module]), None if mask is None else id(mask[module])), []).append(module)
    names = tuple(map(tuple, groups.values()))
    sums = _sums_of_activations(
        {m: adapter.factors[m]["a"] for m in modules},
        [inputs[group[0]] for group in names],
        None if mask is None else [mask[group[0]] for group in names],
        groups=names,
        input_squares=input_squares,
    )
    kept = inputs[modules[0]].shape[1] if mask is None else jnp.sum(mask[modules[0]][0])
    parts = {
        name: {m: sums[m][name] for m in modules if name in sums[m]} for name in ("gram", "input_square", "root")
    }
    return Statistics(**parts, positions=jnp.asarray(kept, jnp.float32), sequences=jnp.ones((), jnp.float32))


@functools.partial(jax.jit, static_argnames=("groups", "input_squares"))
def _sums_of_activations(a, inputs, masks, *, groups, input_squares):
    """Return ``{module: batch_statistics}`` with a leading axis L, grouped by modules with the same inputs."""

    def one_layer(x, factors, keep):
        ranks = [len(factor) for factor in factors]
        z = matmul(x.astype(jnp.float32), jnp.concatenate(factors).astype(jnp.float32).T)
        # The barrier keeps the product in one piece, so that it is not recomputed for each of its uses.
        parts = jnp.split(jax.lax.optimization_barrier(z), np.cumsum(ranks[:-1]), axis=1)
        return [batch_statistics(x, part, keep, input_squares=input_squares) for part in parts]

    found: dict[str, dict[str, jax.Array]] = {}
    for number, (group, x) in enumerate(zip(groups, inputs, strict=True)):
        keep = jnp.ones(x.shape[:2], bool) if masks is None else masks[number]
        sums = map_layers(one_layer, x, [a[module] for module in group], keep, factorises=True)
        found |= dict(zip(group, sums, strict=True))
    return found
