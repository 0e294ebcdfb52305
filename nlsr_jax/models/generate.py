"""Generation with a cache of keys and values: prefill, then one compiled loop.

Axis legend: B batch, T prompt positions, S cache slots, L layers, K kv heads, H head dim, V vocabulary.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nlsr_jax.adapter import Adapter
from nlsr_jax.errors import InputError
from nlsr_jax.hardware import widens_products
from nlsr_jax.models.cache import Cache
from nlsr_jax.models.llama import Llama, everywhere, variables
from nlsr_jax.models.lora import check_tokens, one_or_several, prepare, prepare_several, repeated
from nlsr_jax.models.projection import join, merge_adapter, worth_merging
from nlsr_jax.models.rotary import rotary_embedding
from nlsr_jax.types import Array, Params

_APART = 36
"""Up to this many layers they come one by one in a step of generation: a scan copies every layer's weights out of
their stack at every step. More are scanned, to compile fast."""
_GREATEST = np.iinfo(np.int32).max


class Ready(NamedTuple):
    """Weights as generation reads them: the adapter merged where that pays, projections joined; see ``make_ready``.

    Attributes:
      params, lora: of the model, without what is joined or merged.
      joined: the collection of ``nlsr_jax.models.projection.join``; empty where it is too large.
      several: number of adapters whose factors are stacked; 0 for none, and for one that is merged.
      apart: whether the tokens have an axis of the adapters.
    """

    params: Params
    lora: Any
    joined: Any
    several: int
    apart: bool


def make_ready(
    model: Llama, params: Params, adapter: Adapter | Sequence[Adapter] | None, *, positions: int
) -> Ready:
    """Merge and join weights once for several calls of ``generate`` with the same adapter.

    Args:
      model, params, adapter: see ``generate``.
      positions: how many a call will run over.

    Raises:
      InputError: an adapter that cannot be used.
    """
    lora, several, apart = _prepared(model, params, one_or_several(adapter))
    merged = () if several else worth_merging(params, lora, positions)
    params, lora, joined = _ready(model, params, lora, merged=merged, several=several)
    return Ready(params, lora, joined, several, apart)


def _prepared(model: Llama, params: Params, adapter: Adapter | tuple[Adapter, ...] | None) -> tuple[Any, int, bool]:
    """Return expanded adapters, how many of them take the rows in turn, and whether the tokens come apart.

    One adapter that is not merged, because the weights are bfloat16, is a stack of one: joined weights
    are read faster.
    """
    if isinstance(adapter, tuple):
        return prepare_several(model, adapter), len(adapter), True
    if adapter is not None and _is_beside(model, params, adapter):
        return prepare_several(model, (adapter,)), 1, False
    return prepare(model, adapter), 0, False


def _is_beside(model: Llama, params: Params, adapter: Adapter) -> bool:
    plain = set(adapter.factors) <= set(model.config.projections())
    return plain and model.layout is None and widens_products(params["embed"].dtype)


@functools.partial(jax.jit, static_argnames=("model", "merged", "several"))
def _ready(model, params, lora, *, merged: tuple[str, ...], several: int):
    """Return ``params``, ``lora`` and ``joined`` of ``Ready``."""
    c = model.config
    params, lora = merge_adapter(params, lora, merged)
    if (lora is not None and not several) or model.layout is not None:
        return params, lora, {}
    joined = join(params, c.tied, c.num_layers <= _APART, lora if several == 1 else None)
    if joined:
        lora = None if several == 1 else lora
        rest = {name: leaf for name, leaf in params["layers"].items() if not name.endswith("_proj")}
        params = {**params, "layers": rest}
    return params, lora, joined


def generate(
    model: Llama,
    params: Params | Ready,
    prompts: Any,
    *,
    adapter: Adapter | Sequence[Adapter] | None = None,
    attention_mask: Array | None = None,
    max_new_tokens: int,
    eos_id: int | tuple[int, ...] | list[int] | None = None,
    pad_id: int = 0,
    temperature: float = 0.0,
    key: jax.Array | None = None,
    prefix: Any = None,
) -> jax.Array:
    """Continue prompts, greedily or by sampling.

    Args:
      model, params: from ``load_model``; or the result of ``make_ready``, which holds the adapter.
      prompts: ``[B, T]`` integers, padded on the left.
      adapter: LoRA adapter to run with; None for the base alone. Several continue the prompts in one pass, which
        reads the base's weights once for all; their tokens are those of single calls up to rounding.
      attention_mask: ``[B, T]``, False or 0 at padding; None for no padding.
      max_new_tokens: how many tokens to make.
      eos_id: token or tokens that end a row, such as ``model.config.end_tokens``; None to go on to the end.
      pad_id: what a row is filled with after its end.
      temperature: 0 for the most likely token, else logits are divided by it and sampled.
      key: PRNG key, needed for sampling.
      prefix: ``[P]`` integers that come before every prompt, such as a system prompt; None for none. The model runs
        over them once. Only where ``shares_prefix`` is true.

    Returns:
      ``[B, max_new_tokens]`` int32, each row's end token included; of several adapters ``[N, B, max_new_tokens]``.

    Raises:
      InputError: an adapter, inputs or settings that cannot be used.
    """
    check_tokens(model, prompts, attention_mask)
    if not _is_whole(max_new_tokens) or max_new_tokens < 1:
        raise InputError(f"max_new_tokens is {max_new_tokens!r}; expected a whole number, at least 1")
    if not isinstance(pad_id, jax.Array) and not (_is_whole(pad_id) and abs(int(pad_id)) <= _GREATEST):
        raise InputError(f"pad_id is {pad_id!r}; expected a token id")
    if not 0 <= temperature < float("inf"):
        raise InputError(f"temperature is {temperature}; expected 0 (greedy) or more")
    if temperature > 0 and key is None:
        raise InputError("sampling needs a PRNG key: give key=jax.random.key(seed), or temperature=0")
    mask = np.ones(prompts.shape, bool) if attention_mask is None else jnp.asarray(attention_mask, bool)
    if attention_mask is not None and not bool(_all(attention_mask[:, -1])):
        raise InputError("attention_mask ends with padding; prompts must be padded on the left")
    if prefix is not None and not (np.ndim(prefix) == 1 and len(prefix) and shares_prefix(model)):
        raise InputError("prefix must be a vector of token ids, for a model that shares_prefix accepts")
    prompts, joined = jnp.asarray(prompts, jnp.int32), None
    if isinstance(params, Ready):
        params, lora, joined, several, apart = params
    else:
        lora, several, apart = _prepared(model, params, one_or_several(adapter))
    if several:
        prompts, mask = repeated(prompts, several), repeated(mask, several)
    go_on = functools.partial(
        _generate,
        model,
        params,
        lora,
        joined,
        temperature=np.float32(temperature),
        pad_id=jnp.int32(pad_id),
        ends=end_ids(eos_id),
        sample=temperature > 0,
        several=several,
        ordered=attention_mask is None and model.attention == "fused",
        prefix=None if prefix is None else jnp.asarray(prefix, jnp.int32),
    )
    key, steps = key if temperature > 0 else None, int(max_new_tokens)
    if model.config.rope.kind == "longrope":
        made = _across(go_on, model.config.rope.original_length, prompts, mask, key, steps)
    else:
        made = go_on(prompts, mask, key=key, steps=steps)
    return made.reshape(several, -1, made.shape[1]) if apart else made


def _all(values: Array) -> Any:
    """Whether all values are true; NumPy's own are asked without a program."""
    return np.all(values) if isinstance(values, np.ndarray) else jnp.all(values)


def shares_prefix(model: Llama) -> bool:
    """Whether prompts can share the keys and values of a common beginning.

    Windows count slots, ``longrope`` depends on the whole length, and fused kernels and meshes take whole prompts.
    """
    c = model.config
    return c.window is None and c.rope.kind != "longrope" and model.layout is None and model.attention == "plain"


def _across(go_on, length: int, prompts, mask, key, steps: int) -> jax.Array:
    """Generate with a ``longrope`` embedding, whose frequencies change behind the original length.

    Once the longest row of a batch is beyond it, all positions take the other frequencies: the cache is made again
    then, as transformers does.

    Args:
      go_on: ``_generate`` but for the following.
      length: the original length.
      prompts, mask, key, steps: see ``_generate``.
    """
    near = length - int(jnp.max(jnp.sum(mask, axis=-1))) + 1  # tokens that the first frequencies choose
    if near >= steps:
        return go_on(prompts, mask, key=key, steps=steps)
    if near < 1:
        return go_on(prompts, mask, key=key, steps=steps, far=True)
    first, done = go_on(prompts, mask, key=key, steps=near, tell=True)
    longer = jnp.concatenate([jnp.asarray(prompts), first], axis=1)
    seen = jnp.concatenate([mask, jnp.ones(first.shape, bool)], axis=1)
    later = None if key is None else jax.random.fold_in(key, near)
    rest = go_on(longer, seen, key=later, steps=steps - near, far=True, done=done)
    return jnp.concatenate([first, rest], axis=1)


def _is_whole(value) -> bool:
    """Whether a value is one whole number: Python's, NumPy's or JAX's, but no boolean."""
    return np.shape(value) == () and np.issubdtype(np.asarray(value).dtype, np.integer)


def end_ids(eos_id: Any) -> tuple[int, ...]:
    """Return the end tokens as a tuple; one token may come without one around it."""
    if eos_id is None:
        return ()
    ids = (eos_id,) if np.shape(eos_id) == () else tuple(eos_id)
    if not all(_is_whole(i) for i in ids):
        raise InputError(f"eos_id is {eos_id!r}; expected a token id, several of them, or None")
    return tuple(int(i) for i in ids)


def _after_prefix(model, collections, prefix, cache: Cache, rows: int, rotary) -> Cache:
    """Return an empty cache filled with a prefix that all its rows begin with.

    Args:
      model, collections, rotary: of the forward pass.
      prefix: ``[P]``.
      cache: empty, of a batch B.
      rows: number of adapters, which have B / rows rows each; 1 for one or none.
    """
    length = prefix.shape[0]

    def small(leaf, axis):
        shape = list(leaf.shape)
        shape[-4], shape[axis] = rows, length
        return jnp.zeros(shape, leaf.dtype)

    keys, values = (
        jax.tree.map(functools.partial(small, axis=axis), leaf) for leaf, axis in ((cache.k, -1), (cache.v, -2))
    )
    empty = Cache(keys, values, jnp.int32(0))
    tokens = jnp.broadcast_to(prefix, (rows, length))
    _, found = model.apply(collections, tokens, cache=empty, rotary=rotary, output="last")

    def filled(whole, part):
        part = jnp.repeat(part, whole.shape[-4] // rows, axis=-4)
        return jax.lax.dynamic_update_slice(whole, part, (0,) * whole.ndim)

    k, v = jax.tree.map(filled, cache.k, found.k), jax.tree.map(filled, cache.v, found.v)
    return Cache(k, v, jnp.int32(length))


def _first_greatest(scores):
    """Return the index of the first greatest score ``[B]`` of ``[B, V]``: argmax, by reductions that vectorise."""
    greatest = (scores == jnp.max(scores, axis=-1, keepdims=True)) | jnp.isnan(scores)
    places = jnp.where(greatest, jnp.arange(scores.shape[-1]), _GREATEST)
    return jnp.min(places, axis=-1).astype(jnp.int32)


def _take_apart(collections, cache: Cache) -> tuple[dict, Cache]:
    """Cut stacked norms, experts, factors and caches into layers once, not to copy them out at every step."""
    params, joined = collections["params"], collections["joined"]
    stack = {"params": {name: leaf for name, leaf in params["layers"].items() if not name.endswith("_proj")}}
    if "lora" in collections:
        stack["lora"] = collections["lora"]["layers"]
    loose = tuple(
        {**jax.tree.map(lambda leaf, i=i: leaf[i], stack), "joined": one} for i, one in enumerate(joined["layers"])
    )
    rest = {name: leaf for name, leaf in params.items() if name != "layers"}
    cache = cache._replace(k=tuple(cache.k), v=tuple(cache.v))
    return {"params": rest, "joined": {"head": joined["head"]}, "loose": {"layers": loose}}, cache


@functools.partial(
    jax.jit, static_argnames=("model", "steps", "ends", "sample", "several", "ordered", "far", "tell")
)
def _generate(
    model,
    params,
    lora,
    joined,
    prompts,
    mask,
    *,
    key,
    temperature,
    pad_id,
    steps,
    ends,
    sample,
    several,
    ordered,
    far=False,
    tell=False,
    done=None,
    prefix=None,
):
    """Continue prompts ``[B, T]``; see ``generate``.

    Args:
      joined: of ``Ready``; None to merge and join here.
      far: of the rotary embedding; see ``rotary_embedding``.
      tell: return which rows have ended beside the tokens.
      done: ``[B]`` bool, rows that have ended before; None for none.
      prefix: ``[P]`` int32 before every prompt, or None.
    """
    c, ahead = model.config, 0 if prefix is None else prefix.shape[0]
    batch, length = prompts.shape
    if joined is None and not several:
        params, lora = merge_adapter(params, lora, worth_merging(params, lora, batch * (length + steps)))
    collections = variables(params, lora)
    apart = c.num_layers <= _APART
    if joined is None and (lora is None or several) and model.layout is None and steps > 1:
        joined = join(params, c.tied, apart, lora if several == 1 else None)
        collections = variables(params, None if joined and several == 1 else lora)
    if joined:
        collections["joined"] = joined
    shape, slots = (c.num_layers, batch, c.num_kv_heads), ahead + length + steps
    kind = params["embed"].dtype
    cache = Cache(
        jnp.zeros((*shape, c.head_dim, slots), kind), jnp.zeros((*shape, slots, c.head_dim), kind), jnp.int32(0)
    )
    lengths = ahead + jnp.sum(mask, axis=-1, dtype=jnp.int32)
    seen = jnp.concatenate([jnp.ones((batch, ahead), bool), mask, jnp.ones((batch, steps), bool)], axis=1)

    def choose(scores, step):
        if not sample:
            return _first_greatest(scores[:, -1])
        draw = functools.partial(jax.random.categorical, jax.random.fold_in(key, step))
        scaled = scores[:, -1] / temperature
        if several:  # every adapter's rows draw as they would alone
            return jax.vmap(draw)(scaled.reshape(several, -1, scaled.shape[1])).reshape(-1).astype(jnp.int32)
        return draw(scaled).astype(jnp.int32)

    def ended(tokens):
        return jnp.isin(tokens, jnp.asarray(ends)) if ends else jnp.zeros((batch,), bool)

    def going(state):
        step, _, _, done, _ = state
        return (step < steps) & ~jnp.all(done)

    def advance(state):
        step, tokens, cache, done, out = state
        positions = (lengths + step - 1)[:, None]
        scores, cache = model.apply(
            collections,
            tokens[:, None],
            cache=cache,
            positions=positions,
            keys=seen,
            rotary=rotary,
            output="last",
        )
        tokens = jnp.where(done, pad_id, choose(scores, step))
        out = jax.lax.dynamic_update_slice(out, tokens[:, None], (0, step))
        return step + 1, tokens, cache, done | ended(tokens), out

    if "joined" in collections and apart:
        collections, cache = _take_apart(collections, cache)
    rotary = rotary_embedding(c, jnp.arange(slots), far)
    # A fused kernel without a mask is faster than with one of ones.
    attend = None if ordered else mask
    options: dict[str, Any] = {"attention_mask": attend}
    if prefix is not None:
        cache = _after_prefix(model, collections, prefix, cache, max(several, 1), rotary)
        places = ahead + jnp.maximum(jnp.cumsum(mask, axis=-1, dtype=jnp.int32) - 1, 0)
        options = {"positions": places, "keys": seen}
    scores, cache = model.apply(collections, prompts, cache=cache, rotary=rotary, output="last", **options)
    first = choose(scores, 0)
    over = ended(first)
    if done is not None:
        first, over = jnp.where(done, pad_id, first), done | over
    out = jnp.full((batch, steps), pad_id, jnp.int32).at[:, 0].set(first)
    state = (jnp.int32(1), first, cache, over, out)
    _, _, _, over, out = jax.lax.while_loop(going, advance, state)
    return (everywhere(model, out), over) if tell else everywhere(model, out)
