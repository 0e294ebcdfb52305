"""The same measurement on every batch, one after the other or, over a mesh, on as many batches as it has devices.

A device takes a batch as a whole, with every layer's weights gathered when its turn comes, and results come back in
the order of the batches: no sum is split, so that what is made of them does not depend on the mesh.
"""

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import PartitionSpec

from nlsr_jax.hardware import EXACT, NARROW, converts_layers
from nlsr_jax.models.llama import Llama
from nlsr_jax.parallel import AXES, Layout, layout_of, replicate, split
from nlsr_jax.types import Params

Measure = Callable[..., Any]
"""``measure(model, params, given, batch, *static)``: a tree of arrays; a function of a module, not a lambda."""


def over_batches(
    measure: Measure, model: Llama, params: Params, given: Any, batches: Iterable, *static: Any
) -> Iterator[Any]:
    """Yield what is measured on every batch, in their order.

    Args:
      measure: what to measure.
      model, params: from ``load_model``; parameters over a mesh are used where they lie.
      given: tree of arrays that all batches need.
      batches: trees of arrays.
      static: further arguments of ``measure``, hashable.

    Yields:
      Trees of arrays on one device.
    """
    layout = layout_of(params)
    if layout is None:
        model = model.clone(layout=None)
        alone = _alone_narrow if converts_layers(params["embed"].dtype) else _alone
        for batch in batches:
            yield alone(params, given, batch, measure=measure, model=model, static=static)
        return
    given = replicate(layout.mesh, given)
    model = model.clone(layout=layout._replace(inside=True))
    for group in _alike(batches, layout.mesh.size):
        found = _together(params, given, _stacked(layout, group), measure=measure, model=model, static=static)
        here = jax.tree.map(lambda leaf: leaf.addressable_data(0), found)
        for place in range(len(group)):
            yield _take(here, place)


_compiled = functools.partial(jax.jit, static_argnames=("measure", "model", "static"))


def _measured_alone(params, given, batch, *, measure, model, static):
    return measure(model, params, given, batch, *static)


_alone = _compiled(_measured_alone, compiler_options=EXACT)
_alone_narrow = _compiled(_measured_alone, compiler_options=NARROW)


@functools.partial(_compiled, compiler_options=EXACT)
def _together(params, given, batches, *, measure, model, static):
    """Measure on batches ``[N, ...]``, one on every device; the results, ``[N, ...]``, are on all devices."""
    layout = model.layout

    def one(params, given, batch):
        batch = jax.tree.map(lambda leaf: leaf[0], batch)
        found = measure(model, layout.gather_rest(params), given, batch, *static)
        return jax.tree.map(lambda leaf: leaf[None], found)

    found = jax.shard_map(
        one,
        mesh=layout.mesh,
        in_specs=(layout.tree(), PartitionSpec(), PartitionSpec(AXES)),
        out_specs=PartitionSpec(AXES),
        check_vma=False,
    )(params, given, batches)
    return jax.tree.map(layout.everywhere, found)


@jax.jit
def _take(tree, place):
    return jax.tree.map(lambda leaf: leaf[place], tree)


def _alike(batches: Iterable, count: int) -> Iterator[list]:
    """Group up to so many batches of one shape that follow each other."""
    group: list = []
    shape = None
    for batch in batches:
        found = [np.shape(leaf) for leaf in jax.tree.leaves(batch)]
        if group and (len(group) == count or found != shape):
            yield group
            group = []
        group.append(batch)
        shape = found
    if group:
        yield group


def _stacked(layout: Layout, group: list):
    """Stack batches, one for every device; devices without one get zeros."""

    def one(*leaves):
        hosts = [np.asarray(leaf) for leaf in leaves]
        return np.stack(hosts + [np.zeros_like(hosts[0])] * (layout.mesh.size - len(hosts)))

    return split(layout.mesh, jax.tree.map(one, *group))
