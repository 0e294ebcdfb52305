"""Adapters layer by layer: cut, streamed through threads, and put together again."""

import collections
import concurrent.futures
import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from nlsr_jax.adapter import Adapter, module_names


class Chunk(NamedTuple):
    """Some layers of one module name: ``rows`` of its leading axis."""

    module: str
    rows: slice


def one_layer(module: str, row: int) -> Chunk:
    """Return the chunk of a single layer, ``row`` of the leading axis of ``module``."""
    return Chunk(module, slice(row, row + 1))


def chunks(shapes: Adapter) -> Iterator[Chunk]:
    """Cut an adapter into single layers.

    One at a time a matrix product runs fastest, little memory is taken, and module names of one size share
    their compiled programs.

    Args:
      shapes: the adapter, or its shapes.
    """
    for module in module_names(shapes.factors):
        for row in range(shapes.factors[module]["a"].shape[0]):
            yield one_layer(module, row)


def piece_of(shapes: Adapter, chunk: Chunk, factors: Any) -> Adapter:
    """Return an adapter of the layers of one chunk, numbered from 0, so that programs are shared."""
    scaling = shapes.scaling[chunk.module] if isinstance(shapes.scaling, Mapping) else shapes.scaling
    if isinstance(scaling, tuple):
        return Adapter({chunk.module: factors}, {chunk.module: scaling[chunk.rows]})
    return Adapter({chunk.module: factors}, scaling)


ANY = "q_proj"
"""The name of every piece that ``nameless`` returns, whichever module it is of."""


def nameless(piece: Adapter) -> Adapter:
    """Return a piece under one name for all modules: those of one shape then share their programs."""
    (factors,) = piece.factors.values()
    scaling = piece.scaling
    return Adapter({ANY: factors}, {ANY: next(iter(scaling.values()))} if isinstance(scaling, Mapping) else scaling)


def named(piece: Adapter, module: str) -> Adapter:
    """Return a piece of ``nameless`` under the name of its module."""
    scaling = piece.scaling
    return Adapter(
        {module: piece.factors[ANY]}, {module: scaling[ANY]} if isinstance(scaling, Mapping) else scaling
    )


def ahead(chunks: Iterable[Chunk], read: Callable[[Chunk], Any]) -> Iterator[tuple[Chunk, Any]]:
    """Yield every chunk with what ``read`` gives for it, the next one being read meanwhile."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        pending: tuple[Chunk, concurrent.futures.Future] | None = None
        for chunk in chunks:
            following = chunk, pool.submit(read, chunk)
            if pending is not None:
                yield pending[0], pending[1].result()
            pending = following
        if pending is not None:
            yield pending[0], pending[1].result()


@contextlib.contextmanager
def behind() -> Iterator[Callable[..., None]]:
    """Yield a function that calls another in a thread, one call after the other and at most two waiting.

    An error of a call is raised by the next one or at the end of the block, which waits for the last.
    """
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waiting: collections.deque[concurrent.futures.Future] = collections.deque()

        def call(function: Callable, *arguments) -> None:
            waiting.append(pool.submit(function, *arguments))
            while len(waiting) > 2 or (waiting and waiting[0].done()):
                waiting.popleft().result()

        yield call
        while waiting:
            waiting.popleft().result()


def join(parts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Put per-layer results of chunks together, module by module, as host arrays.

    A chunk's results are fetched when those of the next are under way, so that the device need not wait.
    """
    grouped: dict[str, list] = {}
    for part in _lagging(parts):
        for module, values in jax.device_get(part).items():
            grouped.setdefault(module, []).append(values)
    return {m: jax.tree.map(lambda *values: np.concatenate(values), *found) for m, found in grouped.items()}


def _lagging(items: Iterable) -> Iterator:
    """Yield each item when the next has been made."""
    waiting: collections.deque = collections.deque()
    for item in items:
        waiting.append(item)
        if len(waiting) > 1:
            yield waiting.popleft()
    yield from waiting
