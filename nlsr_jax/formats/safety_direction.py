"""The direction of an alignment, factored from two model directories one matrix at a time."""

import os
from collections.abc import Callable, Collection

import jax
import numpy as np

from nlsr_jax.adapter import Adapter
from nlsr_jax.errors import InputError
from nlsr_jax.formats.model_matrices import ModelMatrices
from nlsr_jax.modules import MODULES
from nlsr_jax.nlsr.direction import Direction, factor_matrix
from nlsr_jax.random_streams import stream


def safety_direction(
    base: str | os.PathLike,
    pretrained: str | os.PathLike,
    *,
    rank: int,
    modules: Collection[str] | None = None,
    seed: int = 0,
    progress: Callable[[str, int], None] | None = None,
) -> Direction:
    """Factor V = W_base − W_pretrained of every module by a truncated SVD.

    Two matrices are in memory at a time. Matrices whose smaller side is above 512 are decomposed by a randomised
    SVD with four power iterations.

    Args:
      base: the aligned (instruct) model, a Hugging Face directory or hub id.
      pretrained: the model that it was aligned from.
      rank: r_V, at least 1; at most the smaller side of a matrix is taken.
      modules: names of the projections to factor; all by default.
      seed: seed of the randomised decomposition's key.
      progress: called with a module's name and a layer's number after each matrix.

    Returns:
      A ``Direction``: ``adapter`` with factors ``a [L, r_V, k]`` and ``b [L, d, r_V]`` float32, and ``residual``,
      ``{module: [L]}`` float32, the relative error of each in Frobenius' norm.

    Raises:
      InputError: a rank below 1, an unknown module, models of different shapes or without a difference, or files
        that are missing or damaged.
    """
    if rank < 1:
        raise InputError(f"rank is {rank}; expected at least 1")
    unknown = sorted(set(modules or ()) - set(MODULES))
    if unknown:
        raise InputError(f"modules has {unknown[0]!r}; expected some of {', '.join(MODULES)}")
    aligned, start = ModelMatrices(base), ModelMatrices(pretrained)
    aligned.check_same_shapes(start, "the base was not aligned from this model")
    key = stream(jax.random.key(seed), "direction")
    factors, residual = {}, {}
    for module in [name for name in MODULES if modules is None or name in modules]:
        found = []
        for layer in range(aligned.num_layers):
            after, before = (model.read(module, layer).astype(np.float32) for model in (aligned, start))
            own = jax.random.fold_in(stream(key, module), layer)
            found.append(jax.device_get(factor_matrix(own, after - before, min(rank, *after.shape))))
            if progress is not None:
                progress(module, layer)
        a, b, left = (np.stack(parts) for parts in zip(*found, strict=True))
        factors[module], residual[module] = {"a": a, "b": b}, left
    if not any(np.any(leaf["b"]) for leaf in factors.values()):
        raise InputError(
            f"{pretrained}: holds the weights of {base}; give the model that the base was aligned from"
        )
    return Direction(Adapter(factors), residual)
