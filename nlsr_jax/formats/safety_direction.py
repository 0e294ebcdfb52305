"""The direction of an alignment, factored from two model directories one matrix at a time."""

import os
from collections.abc import Callable, Collection

import jax
import numpy as np

from nlsr_jax.adapter import Adapter
from nlsr_jax.errors import InputError
from nlsr_jax.files.safetensors_files import SafetensorsFile
from nlsr_jax.formats.hugging_face import open_weights, read_config, resolve
from nlsr_jax.formats.model_matrices import matrix_names
from nlsr_jax.modules import FUSED, slice_of
from nlsr_jax.nlsr.direction import Direction, factor_matrix
from nlsr_jax.random_streams import stream

Places = tuple[tuple[SafetensorsFile, str], ...]
"""Where one matrix lies: files and names in them, of parts that stand one above the other."""


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
    aligned, start = _open(base), _open(pretrained)
    unknown = sorted(set(modules or ()) - set(aligned))
    if unknown:
        known = ", ".join([*aligned][:8]) + (" and others" if len(aligned) > 8 else "")
        raise InputError(f"modules has {unknown[0]!r}; expected some of {known}")
    key = stream(jax.random.key(seed), "direction")
    factors, residual = {}, {}
    for module in [name for name in aligned if (modules is None and not slice_of(name)) or name in (modules or ())]:
        if module not in start:
            raise InputError(f"{pretrained}: has no module {module}; the base was not aligned from this model")
        _check_shapes(base, pretrained, module, aligned[module], start[module])
        found = []
        for layer, pair in enumerate(zip(aligned[module], start[module], strict=True)):
            after, before = map(_read, pair)
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


def _open(path) -> dict[str, list[Places]]:
    """Return where the projections lie, ``{module: one per layer}``, each ``[d, k]``; experts as slices too."""
    folder = resolve(path)
    found = open_weights(folder, read_config(folder), None)
    names = matrix_names(found.table, found.config)
    places: dict[str, list[Places]] = {
        module: [(found.files[name],) for name in layers] for module, layers in names.items()
    }
    by_own = {pair: names[module] for module, (pair, _) in found.config.expert_modules().items()}
    for module, ((own, expert), _) in found.config.expert_slices().items():
        parts = zip(*(by_own[one, expert] for one in FUSED.get(own, (own,))), strict=True)
        places[module] = [tuple(found.files[name] for name in layer) for layer in parts]
    return places


def _read(places: Places) -> np.ndarray:
    return np.concatenate([file.read(name).astype(np.float32) for file, name in places])


def _shape(places: Places) -> tuple[int, ...]:
    shapes = [file.shape(name) for file, name in places]
    return sum(rows for rows, *_ in shapes), *shapes[0][1:]


def _check_shapes(base, pretrained, module, aligned, start) -> None:
    shapes = [list(map(_shape, found)) for found in (aligned, start)]
    if shapes[0] != shapes[1]:
        one, two = (f"{len(found)} layers of {module} {list(found[0])}" for found in shapes)
        raise InputError(f"{pretrained}: has {two}, {base} has {one}; the base was not aligned from this model")
