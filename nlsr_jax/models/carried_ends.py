"""The two ends of a model, embedding and output head, as the carried tensors of an adapter change them.

Axis legend: D embed, V vocabulary, r rank, n rows.
Source: the order of PEFT's wrappers: weights of the base, rows of tokens, then copies or factors.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from nlsr_jax.errors import InputError
from nlsr_jax.formats.numbers import count_not_finite
from nlsr_jax.formats.peft_carried import EMBEDDING, HEAD, Carried, CarriedTensor
from nlsr_jax.models.config import ModelConfig
from nlsr_jax.parallel import sharding

ENDS = {"embed": EMBEDDING, "lm_head": HEAD}
"""What the ends are called in the parameter tree, and in files."""


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


class Weights(NamedTuple):
    """The carried tensors of one end, each None where there is none.

    Attributes:
      module: its path.
      base: a weight of the base below everything else.
      copy: the weight of a module that was trained whole.
      a, b: its factors.
      rows: the rows of its tokens.
    """

    module: str = ""
    base: CarriedTensor | None = None
    copy: CarriedTensor | None = None
    a: CarriedTensor | None = None
    b: CarriedTensor | None = None
    rows: CarriedTensor | None = None


class Plan(NamedTuple):
    """How the ends change.

    Attributes:
      embed, lm_head: what is carried of each.
      tied: whether the base has one matrix for both.
      parted: whether the head of a tied base comes apart from its embedding.
    """

    embed: Weights
    lm_head: Weights
    tied: bool
    parted: bool


def plan_ends(carried: Carried, tied: bool) -> Plan:
    """Sort the carried tensors of both ends.

    Args:
      carried: from an adapter's file.
      tied: whether the base has one matrix for both ends.
    """
    embed, head = _weights(carried, EMBEDDING), _weights(carried, HEAD)
    if not tied:
        own = head.rows is not None and carried.own_row_ids(head.module) is not None
        return Plan(embed, head if own else head._replace(rows=None), False, False)
    if carried.extras.tying and (embed.copy or embed.a):  # the head's are the embedding's once more
        return Plan(embed, Weights(head.module), True, False)
    same = head.rows is None or carried.row_ids(head.module) == carried.row_ids(embed.module)
    if embed.rows is not None and (carried.extras.tying or same):
        head = head._replace(rows=None)
    apart = (embed.copy, head.copy, embed.a, head.a, head.rows)
    return Plan(embed, head, True, any(one is not None for one in apart))


def _weights(carried: Carried, name: str) -> Weights:
    module = carried.named(name)
    if module is None:
        return Weights()
    found = carried.of(module, "copy", "under", "factor", "embedding", "rows")
    factors = {one.which: one for one in found if one.kind in ("factor", "embedding")}
    plain = next((one for one in found if (one.kind, one.inside, one.which) == ("copy", "", "weight")), None)
    under = next((one for one in found if (one.kind, one.which) == ("under", "weight")), None)
    saved = carried.extras.saves(module)
    return Weights(
        module,
        under or (None if saved else plain),
        plain if saved else None,
        factors.get("A"),
        factors.get("B"),
        next((one for one in found if (one.kind, one.which) == ("rows", "delta")), None),
    )


def vocabulary(carried: Carried, config: ModelConfig) -> int:
    """Return how many rows embedding and output head have, with what is carried.

    Raises:
      InputError: the carried tensors do not agree, or rows are missing that the base does not have.
    """
    plan = plan_ends(carried, config.tied)
    sizes: dict[str, int] = {}
    for end in (plan.embed, plan.lm_head):
        sized = (one for one in (end.base, end.copy, end.a, end.b) if one is not None)
        for one in sized:
            if (one.kind, one.which) not in (("embedding", "B"), ("factor", "A")):
                sizes[one.key] = carried.shape(one)[1 if one.kind == "embedding" else 0]
    if len(set(sizes.values())) > 1:
        found = ", ".join(f"{key!r} has {size}" for key, size in sizes.items())
        raise InputError(f"{carried.where}: tensors of different vocabularies: {found} rows; expected one number")
    size = next(iter(sizes.values()), config.vocab_size)
    written = config.tied and (plan.embed.base or plan.lm_head.base)
    used = {"embedding": plan.embed}
    if plan.parted or not config.tied:
        used["output head"] = plan.lm_head
    for name, end in used.items():
        if size > config.vocab_size and not (written or end.base or end.copy):
            raise InputError(
                f"{carried.where}: its vocabulary has {size} tokens, the base's {config.vocab_size}, and the file "
                f"does not hold the {name} of the others; give the base as it was resized for training"
            )
    return size


class Ends:
    """Both ends of a model in memory.

    Args:
      embed, head: ``[V, D]``; head None where the base is tied.
      carried: from an adapter's file, checked against the model.
      mesh: that they lie over; None for one device.
    """

    def __init__(self, embed, head, carried: Carried, mesh: Mesh | None):
        self._embed, self._head, self._carried, self._mesh = embed, head, carried, mesh
        self._plan = plan_ends(carried, head is None)

    def changed(self, size: int):
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
