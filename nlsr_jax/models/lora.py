"""Adapters meet the model: checks first, then factors for every layer with the scaling folded in."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nlsr_jax.adapter import Adapter, layer_indices, layer_scaling, module_names
from nlsr_jax.architecture.fit import check_adapter_fits
from nlsr_jax.errors import InputError
from nlsr_jax.models.llama import Llama, forward
from nlsr_jax.types import Array, Params


def expand(adapter: Adapter, num_layers: int) -> Any:
    """Return the ``lora`` collection: every layer's factors, zero where a layer is not adapted.

    Args:
      adapter: an adapter that fits the model.
      num_layers: of the model.

    Returns:
      ``{"layers": {module: {"a": [L, r, k], "b": [L, d, r]}}}`` float32, the scaling folded into ``b``.
    """
    factors, scalings, places = _parts(adapter)
    return {"layers": _expand(factors, scalings, places, num_layers)}


def _parts(adapter: Adapter):
    """Return factors, scalings ``[L]`` and decoder layers of the modules: arrays, arrays, and what is hashable."""
    factors = {m: {f: adapter.factors[m][f] for f in "ab"} for m in module_names(adapter.factors)}
    scalings = {m: layer_scaling(adapter, m) for m in factors}
    return factors, scalings, tuple((m, tuple(map(int, layer_indices(adapter, m)))) for m in factors)


def _expand(factors, scalings, places, num_layers: int):
    def whole(leaf, layers):
        if len(layers) == num_layers:
            return leaf
        return jnp.zeros((num_layers, *leaf.shape[1:]), leaf.dtype).at[np.asarray(layers)].set(leaf)

    tree = {}
    for module, layers in places:
        leaves = {f: jnp.asarray(leaf, jnp.float32) for f, leaf in factors[module].items()}
        leaves["b"] = leaves["b"] * scalings[module][:, None, None]
        tree[module] = {f: whole(leaf, layers) for f, leaf in leaves.items()}
    return tree


_expand_at_once = jax.jit(_expand, static_argnames=("places", "num_layers"))


def _expanded(adapter: Adapter, num_layers: int):
    """``expand`` by one program: a call of a small model does not wait for a dozen of them."""
    factors, scalings, places = _parts(adapter)
    as_they_are = [
        module
        for module, layers in places
        if isinstance(a := factors[module]["a"], jax.Array) and a.dtype == jnp.float32 and len(layers) == num_layers
    ]
    kept = {module: factors[module].pop("a") for module in as_they_are}
    tree = _expand_at_once(factors, scalings, places, num_layers)
    for module, a in kept.items():
        tree[module]["a"] = a
    return {"layers": tree}


def prepare(model: Llama, adapter: Adapter | None) -> Any:
    """Check an adapter against a model and expand it; None stays None."""
    if adapter is None:
        return None
    check_adapter_fits(adapter, model.config)
    return _expanded(adapter, model.config.num_layers)


def one_or_several(adapter: Any) -> Adapter | tuple[Adapter, ...] | None:
    """Return several adapters as a tuple, and one or None as it is.

    Raises:
      InputError: what is no adapter, alone or among others.
    """
    if adapter is None or isinstance(adapter, Adapter):
        return adapter
    if isinstance(adapter, str | bytes | Mapping) or not isinstance(adapter, Iterable):
        raise InputError(
            f"adapter is a {type(adapter).__name__}; expected an Adapter (see load_adapter) or several"
        )
    found = tuple(adapter)
    for number, one in enumerate(found):
        if not isinstance(one, Adapter):
            raise InputError(
                f"adapter {number} of {len(found)} is a {type(one).__name__}; expected an Adapter (the base alone "
                "takes a call with adapter=None)"
            )
    return found


def prepare_several(model: Llama, adapters: Sequence[Adapter]) -> Any:
    """Check adapters against a model and stack them for one pass over all.

    Args:
      model: of the adapters; on one device.
      adapters: of any modules, layers and ranks.

    Returns:
      ``{"layers": {module: {"a": [L, N, r, k], "b": [L, N, d, r]}}}`` float32, the scaling folded into ``b``; r is
      the highest rank, and what an adapter has not is zero.

    Raises:
      InputError: no adapter, one that does not fit, or a model that lies over a mesh.
    """
    if not adapters:
        raise InputError("adapters is empty; give at least one, or adapter=None for the base alone")
    if model.layout is not None:
        raise InputError("several adapters at once run on one device, and the base lies over a mesh")
    for number, adapter in enumerate(adapters):
        check_adapter_fits(adapter, model.config, f"adapter {number}")
    count, sizes = model.config.num_layers, model.config.projections()
    if any(name not in sizes for one in adapters for name in one.factors):
        raise InputError("several adapters at once run without factors of experts; run one after the other")
    trees = [_expanded(adapter, count)["layers"] for adapter in adapters]
    stacked = {}
    for module in [name for name in sizes if any(name in tree for tree in trees)]:
        k, d = sizes[module]
        rank = max(tree[module]["a"].shape[1] for tree in trees if module in tree)
        parts: dict[str, list] = {"a": [], "b": []}
        for tree in trees:
            a, b = (
                (tree[module][f] for f in "ab")
                if module in tree
                else (np.zeros((count, 0, k)), np.zeros((count, d, 0)))
            )
            parts["a"].append(jnp.pad(jnp.asarray(a, jnp.float32), ((0, 0), (0, rank - a.shape[1]), (0, 0))))
            parts["b"].append(jnp.pad(jnp.asarray(b, jnp.float32), ((0, 0), (0, 0), (0, rank - b.shape[2]))))
        stacked[module] = {factor: jnp.stack(leaves, axis=1) for factor, leaves in parts.items()}
    return {"layers": stacked}


def check_array(value: Any, name: str) -> None:
    """Raise InputError unless a value is a NumPy or JAX array."""
    if not isinstance(value, np.ndarray | jax.Array):
        raise InputError(f"{name} is a {type(value).__name__}; expected an array, see numpy.asarray")


def check_tokens(model: Llama, tokens: Array, attention_mask: Array | None = None) -> None:
    """Raise InputError unless tokens are ``[B, T]`` integers of the vocabulary and the mask has their shape.

    Inside a transformation of JAX there are no values to look at: there the shapes alone are checked.
    """
    check_array(tokens, "tokens")
    if tokens.ndim != 2 or not jnp.issubdtype(tokens.dtype, jnp.integer) or 0 in tokens.shape:
        raise InputError(f"tokens are {tokens.dtype} {list(tokens.shape)}; expected integers [B, T], not empty")
    for part in _values(tokens):
        low, high = part.min(), part.max()
        if low < 0 or high >= model.config.vocab_size:
            raise InputError(f"tokens run from {low} to {high}; the vocabulary has {model.config.vocab_size}")
    if attention_mask is None:
        return
    check_array(attention_mask, "attention_mask")
    if attention_mask.shape != tokens.shape:
        raise InputError(f"attention_mask is {list(attention_mask.shape)}; expected {list(tokens.shape)} as tokens")


def _values(tokens) -> list[np.ndarray]:
    """Return the values of an array that this process can see, none of one that is traced.

    They are copied to the host: a reduction on the device would wait for all that it has still to do.
    """
    if isinstance(tokens, np.ndarray):
        return [tokens]
    if isinstance(tokens, jax.core.Tracer):
        return []
    if tokens.is_fully_addressable:
        return [np.asarray(tokens)]
    return [np.asarray(shard.data) for shard in tokens.addressable_shards]


def logits(
    model: Llama,
    params: Params,
    tokens: Array,
    adapter: Adapter | Sequence[Adapter] | None = None,
    attention_mask: Array | None = None,
) -> jax.Array:
    """Return the logits of whole sequences.

    Args:
      model, params: from ``load_model``.
      tokens: ``[B, T]`` integers.
      adapter: LoRA adapter to run with, or several for one pass over all; None for the base alone.
      attention_mask: ``[B, T]``, False or 0 at padding, left or right; None for no padding.

    Returns:
      ``[B, T, V]`` float32, of several adapters ``[N, B, T, V]``; what stands at padding means nothing.

    Raises:
      InputError: an adapter or inputs that do not fit the model.
    """
    check_tokens(model, tokens, attention_mask)
    adapter = one_or_several(adapter)
    if not isinstance(adapter, tuple):
        return forward(model, params, prepare(model, adapter), tokens, attention_mask)
    lora, count = prepare_several(model, adapter), len(adapter)
    found = forward(model, params, lora, repeated(tokens, count), repeated(attention_mask, count))
    return found.reshape(count, *tokens.shape, -1)


def repeated(rows: Any, count: int) -> Any:
    """Return ``[count · B, T]``: rows ``[B, T]`` for one adapter after the other; None stays None."""
    return None if rows is None else jnp.tile(jnp.asarray(rows), (count, 1))
