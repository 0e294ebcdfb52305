"""The method on full weights: the matrices of a fine-tuned model beside those of the aligned model.

The reference is ``W_e = W_I + β V`` with the aligned model's matrix W_I and the direction of its alignment
``V = W_I − W_P``; the fine-tuned matrix is W_t, its update ``W_t − W_I``. All scores are those of ``identify``, on
the entries of matrices in place of factors.

Axis legend: d out-features, k in-features, r = min(d, k).
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nlsr_jax.nlsr.correction import moved
from nlsr_jax.nlsr.low_rank import kept_rank, project_layer

METHODS = ("gain", "magnitude", "wanda", "low_rank", "random")
"""The scores that matrices have."""
SCORES_UPDATE = ("magnitude", "wanda", "low_rank")
"""Those of them that score the entries of the reference's update β V."""


class Matrices(NamedTuple):
    """One projection's matrix of every model.

    Attributes:
      finetuned: W_t, ``[d, k]``; its type is that of the result.
      aligned: W_I, ``[d, k]``.
      pretrained: W_P, ``[d, k]``; None where there is no direction.
    """

    finetuned: np.ndarray
    aligned: np.ndarray
    pretrained: np.ndarray | None = None


class Evidence(NamedTuple):
    """What the calibration data say of one matrix; None for what the method does not need.

    Attributes:
      gradient: ``[d, k]`` mean ∂L/∂W at the fine-tuned model.
      square: ``[k]`` Σ x_j² of the inputs x of the reference model.
      gram, root: ``[r, r]`` Gram matrix and its triangular root of the outputs β V x where d ≤ k, else of the
        inputs x; see ``Statistics``.
    """

    gradient: jax.Array | np.ndarray | None = None
    square: jax.Array | None = None
    gram: jax.Array | None = None
    root: jax.Array | None = None


class Comparison(NamedTuple):
    """How one matrix of the fine-tuned model lies to the reference; scalars.

    Attributes:
      similarity: cosine of the masked updates of reference and fine-tuned model, 0 where one is zero.
      zero_norm: whether one is zero.
      update: ``‖W_t − W_I‖_F``.
      change: ``‖s M ∘ (W_e − W_t)‖_F``, how far a repair of strength s moves the matrix.
      changed: number of masked entries whose value the repair changes.
      taken: ``‖M ∘ βV‖_F / ‖βV‖_F``, how much of the reference's update the mask takes, at any strength; 0
        without one.
    """

    similarity: jax.Array
    zero_norm: jax.Array
    update: jax.Array
    change: jax.Array
    changed: jax.Array
    taken: jax.Array


@jax.jit
def amplified_update(matrices: Matrices, beta: Any) -> jax.Array:
    """Return the reference's update β V, ``[d, k]`` float32; zero without a pretrained matrix."""
    if matrices.pretrained is None:
        return jnp.zeros(matrices.aligned.shape, jnp.float32)
    return jnp.float32(beta) * (_wide(matrices.aligned) - _wide(matrices.pretrained))


def reference_matrix(matrices: Matrices, beta: float) -> np.ndarray:
    """Return W_e = W_I + β V in the type of the fine-tuned matrix, ``[d, k]``; at β = 0 the values of W_I."""
    dtype = matrices.finetuned.dtype
    if beta == 0 or matrices.pretrained is None:
        return np.asarray(matrices.aligned).astype(dtype, copy=False)
    return np.asarray(_amplified(matrices, beta)).astype(dtype, copy=False)


@jax.jit
def _amplified(matrices, beta):
    return _wide(matrices.aligned) + amplified_update(matrices, beta)


def _wide(matrix):
    return matrix.astype(jnp.float32)


def score_matrix(
    method: str,
    matrices: Matrices,
    evidence: Evidence,
    *,
    beta: float,
    sparsity: float,
    key: jax.Array | None = None,
) -> np.ndarray:
    """Score the entries of one matrix.

    ``gain`` is ``max(0, −G ∘ (W_e − W_t))``, the first-order decrease of the loss on safe answers if the entry is
    transplanted, with W_e in the type that is written; ``magnitude`` |β V|; ``wanda`` |β V_ij|·‖X_j‖₂; ``low_rank``
    |U Uᵀ β V| with the first r* = round(r · (1 − P_SR)) left singular vectors U of β V X; ``random`` uniform.

    Args:
      method: one of ``METHODS``.
      matrices: of the projection.
      evidence: what the method needs.
      beta: β.
      sparsity: P_SR, for the rank of ``low_rank``.
      key: PRNG key, for ``random``.

    Returns:
      ``[d, k]`` float32, none below 0.
    """
    if method == "random":
        assert key is not None
        return np.asarray(jax.random.uniform(key, matrices.finetuned.shape))
    if method == "gain":
        return np.asarray(_gain(evidence.gradient, reference_matrix(matrices, beta), matrices.finetuned))
    update = amplified_update(matrices, beta)
    if method == "wanda":
        assert evidence.square is not None
        return np.asarray(jnp.abs(update) * jnp.sqrt(evidence.square))
    if method == "low_rank":
        kept = kept_rank(min(update.shape), sparsity)
        return np.asarray(_low_rank(update, evidence.gram, evidence.root, kept=kept))
    return np.asarray(jnp.abs(update))


@jax.jit
def _gain(gradient, reference, finetuned):
    return jnp.maximum(-_wide(gradient) * (_wide(reference) - _wide(finetuned)), 0.0)


@functools.partial(jax.jit, static_argnames="kept")
def _low_rank(update, gram, root, *, kept):
    factor = "a" if update.shape[0] <= update.shape[1] else "b"
    projected = project_layer(as_factors(update), gram, root, kept)[factor]
    return jnp.abs(projected)


def as_factors(update: jax.Array) -> dict[str, jax.Array]:
    """Return a matrix as factors ``{"a": [r, k], "b": [d, r]}`` with the identity as the smaller one.

    ``A x`` is then the output where d ≤ k, and the input else: statistics of adapters are those of the matrix.
    """
    d, k = update.shape
    if d <= k:
        return {"a": update, "b": jnp.eye(d, dtype=update.dtype)}
    return {"a": jnp.eye(k, dtype=update.dtype), "b": update}


@jax.jit
def compare_matrix(matrices: Matrices, reference: Any, mask: Any, beta: Any, strength: Any = 1.0) -> Comparison:
    """Compare the masked updates of reference and fine-tuned model.

    Args:
      matrices: of the projection.
      reference: W_e, from ``reference_matrix``.
      mask: ``[d, k]`` bool.
      beta: β.
      strength: of the correction; see ``nlsr_jax.nlsr.correction.correct``.
    """
    amplified = amplified_update(matrices, beta)
    one, whole = jnp.where(mask, amplified, 0.0), jnp.linalg.norm(amplified)
    update = _wide(matrices.finetuned) - _wide(matrices.aligned)
    other = jnp.where(mask, update, 0.0)
    norms = jnp.linalg.norm(one) * jnp.linalg.norm(other)
    zero = norms == 0
    change = jnp.where(mask, strength * (_wide(reference) - _wide(matrices.finetuned)), 0.0)
    return Comparison(
        similarity=jnp.where(zero, 0.0, jnp.clip(jnp.sum(one * other) / jnp.where(zero, 1.0, norms), -1.0, 1.0)),
        zero_norm=zero,
        update=jnp.linalg.norm(update),
        change=jnp.linalg.norm(change),
        changed=jnp.sum(change != 0, dtype=jnp.int32),
        taken=jnp.where(whole > 0, jnp.linalg.norm(one) / jnp.where(whole > 0, whole, 1.0), 0.0),
    )


def transplant(finetuned: np.ndarray, reference: np.ndarray, mask: np.ndarray, strength: float = 1.0) -> np.ndarray:
    """Return W_t with the masked entries moved to those of W_e or beyond; all others are W_t's, bit for bit.

    Args:
      finetuned: W_t, ``[d, k]``.
      reference: W_e in the type of W_t.
      mask: ``[d, k]`` bool.
      strength: see ``nlsr_jax.nlsr.correction.correct``.

    >>> transplant(np.array([[1.0, 2.0]]), np.array([[5.0, 6.0]]), np.array([[False, True]])).tolist()
    [[1.0, 6.0]]
    """
    return np.where(
        mask, reference if strength == 1 else np.asarray(moved(finetuned, reference, strength)), finetuned
    )
