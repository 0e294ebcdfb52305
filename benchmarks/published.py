"""The published algorithm in PyTorch, written from the paper: the peer of the benchmarks.

Activations are stored, the low-rank projection is a randomised SVD of their product with the factor, masks come
from a full sort, and similarities from full products of the masked factors.

Axis legend: n positions, r rank, k in-features, d out-features.
"""

import torch

ITERATIONS = 20


def project(weight: torch.Tensor, inputs: torch.Tensor, kept: int) -> torch.Tensor:
    """Return ``U Uᵀ W`` with U the first left singular vectors of ``W X``.

    Args:
      weight: W, ``[m, k]``.
      inputs: X as rows, ``[n, k]``.
      kept: number of vectors.
    """
    u, _, _ = torch.svd_lowrank(weight @ inputs.T, q=kept, niter=ITERATIONS)
    return u @ (u.T @ weight)


def identify(
    a: torch.Tensor, b: torch.Tensor, inputs: torch.Tensor, kept: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the projected factors of one module.

    Args:
      a, b: the factors, ``[r, k]`` and ``[d, r]``.
      inputs: the module's inputs, ``[n, k]``.
      kept: rank of the projection.
    """
    return project(a, inputs, kept), project(b, inputs @ a.T, kept)


def mask(scores: torch.Tensor, count: int) -> torch.Tensor:
    """Mark the ``count`` largest scores by a full sort, ties in favour of the earlier entry."""
    order = torch.sort(scores.flatten(), descending=True, stable=True).indices
    marked = torch.zeros(scores.numel(), dtype=torch.bool)
    marked[order[:count]] = True
    return marked.view_as(scores)


def similarity(first, second, masks) -> float:
    """Return the cosine of the full products of the masked factors ``(a, b)`` of one module."""
    mask_a, mask_b = masks
    one = (first[1] * mask_b) @ (first[0] * mask_a)
    other = (second[1] * mask_b) @ (second[0] * mask_a)
    return float(torch.sum(one * other) / (torch.linalg.norm(one) * torch.linalg.norm(other)))
