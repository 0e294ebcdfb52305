"""A linear map with a LoRA beside it, and its derivative.

``y = W x + B A x``. Where there are many positions and all is float32, ``W + B A`` is made first, which costs less
than the two thin products of every position; the result differs by rounding alone. The derivative turns only small
arrays (see ``attention``) and forms no gradient of ``W`` that nobody asks for.

Axis legend: n positions, k in-features, d out-features, r rank.
"""

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from nlsr_jax.models.product import product
from nlsr_jax.types import Params

MERGED_BYTES = 2**30
"""Weights up to this size are merged and joined once for a generation; larger ones would be in memory twice."""
PRODUCT = "product"
"""The name by which what ``adapted`` returns can be kept for the backward pass (``jax.checkpoint_policies``)."""
_JOINED = (
    ("q_proj", "k_proj", "v_proj"),
    ("qkv_proj",),
    ("o_proj",),
    ("gate_proj", "up_proj"),
    ("gate_up_proj",),
    ("down_proj",),
)


def adapted(x: jax.Array, kernel: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
    """Return ``x Wᵀ + (x Aᵀ) Bᵀ``.

    Args:
      x: ``[..., k]``.
      kernel: W, ``[d, k]``.
      a, b: ``[r, k]`` and ``[d, r]``, the scaling folded into ``b``; the products with them are in their type.

    Returns:
      ``[..., d]`` in the type of ``x Wᵀ``.
    """
    flat = x.reshape(-1, x.shape[-1])
    y = _adapted(flat, kernel, a, b, merges(flat.shape[0], kernel, x, a)).reshape(*x.shape[:-1], -1)
    return checkpoint_name(y, PRODUCT)


def merges(positions: int, kernel: jax.Array, *others: jax.Array) -> bool:
    """Whether ``W + B A`` costs less than products with A and B, and loses nothing: all is float32.

    Args:
      positions: how many.
      kernel: W, ``[..., d, k]``.
      *others: what else has a part in it.
    """
    d, k = kernel.shape[-2:]
    return positions * (d + k) > d * k and all(leaf.dtype == jnp.float32 for leaf in (kernel, *others))


def thin(x: jax.Array, a: jax.Array) -> jax.Array:
    """Return ``x Aᵀ [n, r]`` of ``x [n, k]`` in the type of ``a [r, k]``."""
    return x.astype(a.dtype) @ a.T


def beside(x: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
    """Return ``B A x`` of several adapters, each for its own rows.

    Args:
      x: ``[N · B, T, k]``, the rows of the first adapter first.
      a, b: ``[N, r, k]`` and ``[N, d, r]``, the scaling folded into ``b``; the products are in their type.

    Returns:
      ``[N · B, T, d]``.
    """
    rows = x.reshape(len(a), -1, x.shape[-1]).astype(a.dtype)
    y = jnp.einsum("nbr,ndr->nbd", jnp.einsum("nbk,nrk->nbr", rows, a), b)
    return y.reshape(*x.shape[:-1], -1)


def merged(kernel: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
    """Return ``W + B A [..., d, k]`` of ``[..., d, k]``, ``[..., r, k]`` and ``[..., d, r]``."""
    return kernel + jnp.matmul(b, a)


def worth_merging(params: Params, lora: Any, positions: int) -> tuple[str, ...]:
    """Return the modules whose factors to merge into a model's weights: those where it pays, if they are small.

    Args:
      params: of the model; kernels ``[L, d, k]``.
      lora: the expanded adapter (see ``expand``), or None.
      positions: how many the model will run over.
    """
    layers, factors = params["layers"], {} if lora is None else lora["layers"]
    worth = [
        name
        for name, leaf in factors.items()
        if name in layers and merges(positions, layers[name]["kernel"], leaf["a"])
    ]
    return () if sum(layers[name]["kernel"].nbytes for name in worth) > MERGED_BYTES else tuple(worth)


def merge_adapter(params: Params, lora: Any, names: Iterable[str]) -> tuple[Any, Any]:
    """Merge an adapter's factors of some modules into a model's weights; see ``worth_merging``.

    Returns:
      ``(params, lora)`` with what was not merged; None where nothing is left.
    """
    factors = {} if lora is None else dict(lora["layers"])
    layers = dict(params["layers"])
    for name in names:
        leaf = factors[name]
        layers[name] = {**layers[name], "kernel": merged(layers[name]["kernel"], leaf["a"], leaf["b"])}
        del factors[name]
    return {**params, "layers": layers}, {"layers": factors} if factors else None


def joined_name(names: Iterable[str]) -> str:
    """Return what the joined weights of projections are called."""
    return "+".join(names)


def join(params: Params, tied: bool, apart: bool = False, lora: Any = None) -> dict[str, Any]:
    """Return the weights as generation reads them: ``[..., in, out]``, projections of one input side by side.

    A few rows times weights that lie so take half the time on a CPU.

    Args:
      params: of the model; kernels ``[L, d, k]``.
      tied: whether the output head is the embedding.
      apart: give ``layers`` as a tuple of theirs instead of a stack.
      lora: a stack of one adapter (see ``prepare_several``), whose factors are joined likewise: there are fewer
        small products, which have zeros among their operands. None to leave factors as they are.

    Returns:
      The collection ``joined``; empty where the weights are too large to be in memory twice.
    """
    layers, head = params["layers"], params["embed" if tied else "lm_head"]
    parts = {name: layers[name] for names in _JOINED for name in names if name in layers}
    experts = jax.tree.leaves(layers.get("experts"))
    if sum(leaf.nbytes for leaf in (head, *experts, *(part["kernel"] for part in parts.values()))) > MERGED_BYTES:
        return {}
    factors = {} if lora is None else lora["layers"]
    if not apart:
        return {"layers": _join(parts, factors), "head": head.T}
    count = parts["o_proj"]["kernel"].shape[0]
    ones = (jax.tree.map(lambda leaf, i=i: leaf[i], (parts, factors)) for i in range(count))
    return {"layers": tuple(_join(*one) for one in ones), "head": head.T}


def _join(parts, factors) -> dict[str, jax.Array]:
    """Join the kernels ``[..., d, k]``, biases and adapters of one layer or a stack of them."""
    found = {}
    for names in _JOINED:
        if names[0] not in parts:
            continue
        kernels = [jnp.swapaxes(parts[name]["kernel"], -1, -2) for name in names]
        found[joined_name(names)] = jnp.concatenate(kernels, axis=-1)
        if "bias" in parts[names[0]]:
            biases = [parts[name]["bias"] for name in names]
            found[f"{joined_name(names)}_bias"] = jnp.concatenate(biases, axis=-1)
        if any(name in factors for name in names):
            widths = [parts[name]["kernel"].shape[-2] for name in names]
            a, b = _join_factors([factors.get(name) for name in names], widths)
            found |= {f"{joined_name(names)}_a": a, f"{joined_name(names)}_b": b}
    return found


def _join_factors(factors, widths: Sequence[int]) -> tuple[jax.Array, jax.Array]:
    """Put A of projections of one input below each other, and B along a diagonal of blocks.

    Args:
      factors: ``{"a": [..., r, k], "b": [..., d, r]}`` of each projection; None where it has none.
      widths: d of each.

    Returns:
      ``[..., R, k]`` and ``[..., D, R]``, where R and D are the sums of r and d.
    """
    some = [leaf for leaf in factors if leaf is not None]

    def block(leaf, width, column):
        b = column["b"]
        return b if leaf is column else jnp.zeros((*b.shape[:-2], width, b.shape[-1]), b.dtype)

    rows = [
        jnp.concatenate([block(leaf, width, column) for column in some], axis=-1)
        for leaf, width in zip(factors, widths, strict=True)
    ]
    return jnp.concatenate([leaf["a"] for leaf in some], axis=-2), jnp.concatenate(rows, axis=-2)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _adapted(x, kernel, a, b, merge):
    if merge:
        return x @ merged(kernel, a, b).T
    y = product("nk,dk->nd", x, kernel)
    return y + (thin(x, a) @ b.T).astype(y.dtype)


def _adapted_forward(x, kernel, a, b, merge):
    return _adapted(x, kernel, a, b, merge), (x, kernel, a, b)


def _adapted_backward(merge, saved, d_y):
    x, kernel, a, b = saved
    d_z = jax.lax.optimization_barrier(thin(d_y, b.T))
    if merge:
        d_x = d_y @ merged(kernel, a, b)
    else:
        d_x = product("nd,dk->nk", d_y, kernel)
        d_x = d_x + (d_z @ a).astype(d_x.dtype)
    d_a = d_z.T @ x.astype(a.dtype)
    d_b = jax.lax.optimization_barrier(thin(x, a).T @ d_y.astype(b.dtype)).T
    return d_x.astype(x.dtype), product("nd,nk->dk", d_y, x).astype(kernel.dtype), d_a, d_b


_adapted.defvjp(_adapted_forward, _adapted_backward)
