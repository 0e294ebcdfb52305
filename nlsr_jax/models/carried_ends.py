"""The two ends of a model, embedding and output head, as the carried tensors of an adapter change them.

Axis legend: D embed, V vocabulary, r rank, n rows.
Source: the order of PEFT's wrappers: weights of the base, rows of tokens, then copies or factors.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from nlsr_jax.errors import InputError
from nlsr_jax.files.numbers import count_not_finite
from nlsr_jax.formats.carried_ends import Weights, plan_ends
from nlsr_jax.formats.peft_carried import Carried, CarriedTensor
from nlsr_jax.parallel import sharding


def read(carried: Carried, tensor: CarriedTensor) -> np.ndarray:
    """Read a tensor that is computed with.

    Raises:
      InputError: it is quantised, or an entry is not finite.
    """
    kind = carried.dtype(tensor).name
    if kind not in ("float64", "float32", "float16", "bfloat16"):
        raise InputError(f"{carried.where}: {tensor.key!r} has type {kind}; expected float32, float16 or bfloat16")
    value = carried.read(tensor)
    value = value.astype(np.float32) if kind == "float64" else value
    bad = count_not_finite(value)
    if bad:
        raise InputError(f"{carried.where}: {tensor.key!r} holds {bad} entries that are NaN or infinite")
    return value


class Ends:
    """Both ends of a model in memory.

    Args:
      embed, head: ``[V, D]``; head None where the base is tied.
      carried: from an adapter's file, checked against the model.
      mesh: that they lie over; None for one device.
    """

    def __init__(self, embed: jax.Array, head: jax.Array | None, carried: Carried, mesh: Mesh | None):
        self._embed, self._head, self._carried, self._mesh = embed, head, carried, mesh
        self._plan = plan_ends(carried, head is None)

    def changed(self, size: int) -> Any:
        """Return embedding and head ``[size, D]`` as PEFT makes them; head None where the model stays tied."""
        plan = self._plan
        self._write_base()
        if self._embed.shape[0] > size:
            self._embed = self._computed("embed", lambda leaf: leaf[:size], self._embed)
        if self._head is not None and self._head.shape[0] > size:
            self._head = self._computed("lm_head", lambda leaf: leaf[:size], self._head)
        if plan.parted and plan.lm_head.rows is not None:
            self._head = self._embed
        self._embed = self._with_rows("embed", plan.embed, self._embed)
        if plan.parted and self._head is None:
            self._head = self._embed
        if self._head is not None:
            self._head = self._with_rows("lm_head", plan.lm_head, self._head)
            self._head = self._with_own("lm_head", plan.lm_head, self._head)
        self._embed = self._with_own("embed", plan.embed, self._embed)
        return self._embed, self._head

    def _write_base(self) -> None:
        """Put carried weights of the base in its place; both ends of a tied base are one."""
        embed, head = self._plan.embed.base, self._plan.lm_head.base
        if embed and head and self._plan.tied and not self._equal(embed, head):
            raise InputError(
                f"{self._carried.where}: {embed.key!r} and {head.key!r} differ, and the base ties its output head "
                "to its embedding; give the base that the adapter was trained on"
            )
        if embed:
            self._embed = self._placed("embed", embed)
        elif head and self._plan.tied:
            self._embed = self._placed("embed", head)
        if head and not self._plan.tied:
            self._head = self._placed("lm_head", head)

    def _equal(self, one: CarriedTensor, other: CarriedTensor) -> bool:
        shapes = {self._carried.shape(tensor) for tensor in (one, other)}
        return len(shapes) == 1 and np.array_equal(read(self._carried, one), read(self._carried, other))

    def _with_rows(self, name: str, end: Weights, leaf):
        """Replace the rows of trained tokens."""
        if end.rows is None:
            return leaf
        ids = np.array(self._carried.row_ids(end.module))
        if ids.max() >= leaf.shape[0]:
            raise InputError(
                f"{self._carried.where}: trainable_token_indices names token {ids.max()}; the vocabulary has "
                f"{leaf.shape[0]}"
            )
        rows = read(self._carried, end.rows).astype(leaf.dtype)
        return self._computed(name, lambda leaf, rows: leaf.at[ids].set(rows), leaf, rows)

    def _with_own(self, name: str, end: Weights, leaf):
        """Take the copy of a module that was trained whole, or add the product of factors."""
        if end.copy is not None:
            return self._placed(name, end.copy)
        if end.a is None or end.b is None:
            return leaf
        a, b = (read(self._carried, one).astype(np.float32) for one in (end.a, end.b))
        b = b * np.float32(self._carried.targets[end.module].scaling)
        left, right = (a.T, b.T) if end.a.kind == "embedding" else (b, a)

        def added(leaf, left, right):
            product = jnp.matmul(left, right, precision=jax.lax.Precision.HIGHEST)
            return (leaf.astype(jnp.float32) + product).astype(leaf.dtype)

        return self._computed(name, added, leaf, left, right)

    def _placed(self, name: str, tensor: CarriedTensor):
        """Read a whole matrix to where it belongs, in the type of the base."""
        value = read(self._carried, tensor).astype(self._embed.dtype)
        if self._mesh is None:
            return jax.device_put(value)
        layout = sharding(self._mesh, (name,), value.shape)
        return jax.make_array_from_callback(value.shape, layout, lambda index: value[index])

    def _computed(self, name: str, function: Callable, leaf, *others):
        """Compute a matrix from the one before, laid out as it belongs."""
        if self._mesh is None:
            return jax.jit(function)(leaf, *others)
        shape = jax.eval_shape(function, leaf, *others).shape
        return jax.jit(function, out_shardings=sharding(self._mesh, (name,), shape))(leaf, *others)
