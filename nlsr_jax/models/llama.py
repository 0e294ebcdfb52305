"""Llama-family decoder in Flax Linen: one block, stacked and scanned over the layers.

Weights keep the orientation of Hugging Face files, ``[out, in]``, with a leading axis L for the layers.
Separate collections: ``params`` (the base), ``lora`` (factors whose scaling is folded into ``b``), ``statistics``,
``representations`` (a layer's input and feed-forward output; both captured where they are mutable), ``probes``
(added to what attention puts out, where they are given), ``joined`` (weights as generation reads them; see
``join``), and ``loose`` (the layers' collections one by one, in place of the stack).

Axis legend: B batch, T query, S key, D embed, F feed-forward, K kv heads, G query heads per kv head, H head
dim, L layers, r rank, V vocabulary.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from nlsr_jax.errors import InputError
from nlsr_jax.models.attention import attend
from nlsr_jax.models.config import ModelConfig
from nlsr_jax.models.fused_attention import ATTENTION, KERNELS, attend_fused
from nlsr_jax.models.projection import PRODUCT, adapted, beside, joined_name, thin
from nlsr_jax.models.rope import inverse_frequencies
from nlsr_jax.nlsr.statistics import batch_statistics
from nlsr_jax.parallel import Layout

# A product that has a derivative of its own shows as no product to the policy: it goes by name.
_PRODUCTS = jax.checkpoint_policies.save_from_both_policies(
    jax.checkpoint_policies.dots_saveable, jax.checkpoint_policies.save_only_these_names(PRODUCT)
)


class Cache(NamedTuple):
    """Keys ``k [L, B, K, H, S]`` and values ``v [L, B, K, S, H]`` of all positions so far, and the next free slot.

    So the products of a step of generation read both in the order in which they lie. Layers that come one by one
    have a tuple of theirs; see ``LayerCache``.
    """

    k: Any
    v: Any
    slot: jax.Array

    def seen(self, layer):
        """Return a layer's keys and values so far, ``[B, K, S, H]``."""
        return (
            jnp.swapaxes(jax.lax.dynamic_index_in_dim(self.k, layer, keepdims=False), -1, -2),
            jax.lax.dynamic_index_in_dim(self.v, layer, keepdims=False),
        )

    def extended(self, layer, k, v) -> "Cache":
        """Put ``k`` and ``v [B, K, T, H]`` of new positions of a layer into the next free slots."""
        k = jnp.swapaxes(k, -1, -2)
        return self._replace(
            k=jax.lax.dynamic_update_slice(self.k, k[None], (layer, 0, 0, 0, self.slot)),
            v=jax.lax.dynamic_update_slice(self.v, v[None], (layer, 0, 0, self.slot, 0)),
        )


class LayerCache(NamedTuple):
    """``Cache`` of one layer: ``k [B, K, H, S]``, ``v [B, K, S, H]``.

    An axis of layers of length 1 would not do: XLA then writes an update twice, and copies what it writes to.
    """

    k: jax.Array
    v: jax.Array
    slot: jax.Array

    def seen(self, layer):
        """Return the keys and values so far, ``[B, K, S, H]``."""
        return jnp.swapaxes(self.k, -1, -2), self.v

    def extended(self, layer, k, v) -> "LayerCache":
        """Put ``k`` and ``v [B, K, T, H]`` of new positions into the next free slots."""
        return self._replace(
            k=jax.lax.dynamic_update_slice(self.k, jnp.swapaxes(k, -1, -2), (0, 0, 0, self.slot)),
            v=jax.lax.dynamic_update_slice(self.v, v, (0, 0, self.slot, 0)),
        )


class Context(NamedTuple):
    """What every layer sees alike.

    Attributes:
      cos, sin: ``[B, T, 1, H/2]`` float32 rotary embedding.
      mask: ``[B, T, S]`` bool, True where a query may attend.
      near: ``[B, T, S]`` bool, True inside the attention window; None without windows.
      keep: ``[B, T]`` bool response positions for the statistics; None for all.
    """

    cos: jax.Array
    sin: jax.Array
    mask: jax.Array
    near: jax.Array | None
    keep: jax.Array | None


def rotary_embedding(config: ModelConfig, positions) -> tuple[jax.Array, jax.Array]:
    """Return cosine and sine ``[..., H/2]`` float32 of the angles of positions ``[...]``."""
    angles = positions[..., None].astype(jnp.float32) * inverse_frequencies(config.rope, config.head_dim)
    return jnp.cos(angles), jnp.sin(angles)


def _rotate(x, context: Context):
    """Apply the rotary embedding to ``[B, T, heads, H]``: the two halves of a head are one complex number."""
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = [first * context.cos - second * context.sin, second * context.cos + first * context.sin]
    return jnp.concatenate(turned, axis=-1).astype(x.dtype)


def place(layout: Layout | None, leaf, split: int | None = None):
    """Lay activations over the mesh, where there is one; see ``Layout.place``."""
    return leaf if layout is None else layout.place(leaf, split)


class Norm(nn.Module):
    """RMS norm over the last axis, computed in float32."""

    eps: float

    @nn.compact
    def __call__(self, x):
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        wide = x.astype(jnp.float32)
        wide = wide * jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + self.eps)
        return wide.astype(x.dtype) * scale


class Projection(nn.Module):
    """``y = W x + b``, plus ``B A x`` where the ``lora`` collection has factors for it.

    Factors of several adapters, ``[N, r, k]`` and ``[N, d, r]``, go each with an N-th of the rows.
    """

    features: int
    bias: bool = False

    @nn.compact
    def __call__(self, x, keep=None):
        kernel = self.param("kernel", nn.initializers.normal(0.02), (self.features, x.shape[-1]))
        if self.has_variable("lora", "a"):
            a: jax.Array = self.get_variable("lora", "a")
            b: jax.Array = self.get_variable("lora", "b")
            if a.ndim == 3:
                y = jnp.einsum("...k,dk->...d", x, kernel)
                y = y + beside(x, a, b).astype(y.dtype)
            else:
                y = adapted(x, kernel, a, b)
            if a.ndim == 2 and self.is_mutable_collection("statistics"):
                flat = x.reshape(-1, x.shape[-1])
                self._capture(flat, thin(flat, a), keep)
        else:
            y = jnp.einsum("...k,dk->...d", x, kernel)
        return y + self.param("bias", nn.initializers.zeros, (self.features,)) if self.bias else y

    def adapters(self) -> tuple[jax.Array, jax.Array] | None:
        """Return the factors of several adapters, ``[N, r, k]`` and ``[N, d, r]``, where there are some."""
        if not self.has_variable("lora", "a") or self.get_variable("lora", "a").ndim == 2:
            return None
        return self.get_variable("lora", "a"), self.get_variable("lora", "b")

    def _capture(self, x, z, keep):
        root = self.get_variable("statistics", "root") if self.has_variable("statistics", "root") else None
        keep = jnp.ones(x.shape[:-1], bool) if keep is None else keep
        for name, value in batch_statistics(x, z, keep, root).items():
            self.put_variable("statistics", name, value)


class Block(nn.Module):
    """One decoder layer: attention and gated feed-forward, each with a residual.

    Attributes:
      config, layout: see ``Llama``.
      kernel: of fused attention; None for plain attention.
      ordered: whether a query may attend to itself and all before, and nothing else is masked.
    """

    config: ModelConfig
    layout: Layout | None = None
    kernel: str | None = None
    ordered: bool = False

    def setup(self):
        c = self.config
        for name, (_, features) in c.projections().items():
            bias = c.mlp_bias if name in ("gate_proj", "up_proj", "down_proj") else c.qkv_bias
            bias = c.out_bias if name == "o_proj" else bias
            setattr(self, name, Projection(features, bias))
        self.input_norm, self.post_norm = Norm(c.eps), Norm(c.eps)
        if c.qk_norm:
            self.q_norm, self.k_norm = Norm(c.eps), Norm(c.eps)

    def __call__(self, carry, layer, windowed, context: Context):
        x, cache = carry
        before = x
        attended, cache = self._attention(self.input_norm(x), cache, layer, windowed, context)
        if self.has_variable("probes", "attention"):
            attended = attended + self.get_variable("probes", "attention").astype(attended.dtype)
        x = x + attended
        gate, up = self._products(("gate_proj", "up_proj"), self.post_norm(x), context.keep)
        (h,) = self._products(("down_proj",), place(self.layout, nn.silu(gate) * up), context.keep)
        h = place(self.layout, h)
        if self.is_mutable_collection("representations"):
            self.put_variable("representations", "input", before)
            self.put_variable("representations", "feed_forward", h)
        return (x + h, cache), None

    def _products(self, names: tuple[str, ...], x, keep) -> tuple[jax.Array, ...]:
        """Return what projections of one input put out, by one product where they are joined; see ``join``."""
        name = joined_name(names)
        if not self.has_variable("joined", name):
            return tuple(getattr(self, one)(x, keep) for one in names)
        y = x @ self.get_variable("joined", name)
        if self.has_variable("joined", f"{name}_bias"):
            y = y + self.get_variable("joined", f"{name}_bias")
        widths = [self.config.projections()[one][1] for one in names]
        parts = jnp.split(y, np.cumsum(widths[:-1]), axis=-1)
        for i, one in enumerate(names):
            if factors := getattr(self, one).adapters():
                parts[i] = parts[i] + beside(x, *factors).astype(y.dtype)
        return tuple(parts)

    def _attention(self, x, cache, layer, windowed, context):
        c = self.config
        batch, length, _ = x.shape
        axis = 2 if self.layout and self.layout.tensor_divides(c.num_kv_heads) else None

        def split(y, heads):
            return place(self.layout, y.reshape(batch, length, heads, c.head_dim), axis)

        q, k, v = self._products(("q_proj", "k_proj", "v_proj"), x, context.keep)
        q, k, v = split(q, c.num_heads), split(k, c.num_kv_heads), split(v, c.num_kv_heads)
        if c.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = _rotate(q, context), _rotate(k, context)
        k, v = jnp.swapaxes(k, 1, 2), jnp.swapaxes(v, 1, 2)
        mask = context.mask if context.near is None else context.mask & (context.near | ~windowed)
        q = q.reshape(batch, length, c.num_kv_heads, -1, c.head_dim)
        if cache is not None:
            cache = cache.extended(layer, k, v)
            if mask.shape[-1] != length:  # what starts an empty cache sees only itself
                k, v = cache.seen(layer)
        fused = None if length == 1 else attend_fused(self.kernel, q, k, v, None if self.ordered else mask)
        out = attend(q, k, v, mask) if fused is None else fused
        out = place(self.layout, out.reshape(batch, length, -1))
        (out,) = self._products(("o_proj",), out, context.keep)
        return place(self.layout, out), cache


class Llama(nn.Module):
    """A Llama-family causal language model.

    Attributes:
      config: its shapes and settings.
      remat: compute a layer again in the backward pass, whole.
      keep: without it, what is kept for the backward pass and not computed again: what matrix products give.
      layout: how the weights lie over a mesh: a layer's are gathered when its turn comes. None for one device.
      attention: ``"plain"``, or ``"fused"``: by the platform's kernel where it takes the arrays (see
        ``fused_attention``), whose results differ by rounding.
    """

    config: ModelConfig
    remat: bool = False
    keep: Callable[..., bool] = _PRODUCTS
    layout: Layout | None = None
    attention: str = "plain"

    @nn.compact
    def __call__(
        self,
        tokens,
        attention_mask=None,
        *,
        response_mask=None,
        cache=None,
        positions=None,
        keys=None,
        rotary=None,
        output="logits",
    ):
        """Run the model.

        Args:
          tokens: ``[B, T]`` int32.
          attention_mask: ``[B, T]`` bool, False at padding (left or right); None for no padding.
          response_mask: ``[B, T]`` bool, the positions that ``statistics`` counts.
          cache: keys and values so far; T must be 1, or the cache empty. With the collection ``loose``, a tuple of
            caches of the layers in ``k`` and ``v``.
          positions: ``[B, T]`` int32 positions; counted from the first unmasked token by default.
          keys: ``[B, S]`` bool, slots of the cache that may be attended, where T is 1.
          rotary: tables ``[P, H/2]`` to read the rotary embedding from, where it is not to be computed anew at
            every layer of every step; see ``rotary_embedding``.
          output: ``"logits"`` of all positions, ``"last"`` (of the last one), or ``"hidden"`` states.

        Returns:
          ``[B, T, V]`` (``[B, 1, V]``, ``[B, T, D]``) float32 logits or hidden states; with a cache
          ``(logits, cache)``.
        """
        c = self.config
        embed = self.param("embed", nn.initializers.normal(0.02), (c.vocab_size, c.hidden_size))
        context = self._context(tokens, attention_mask, positions, keys, cache, response_mask, rotary)
        x = self._gathered("embed", embed)[tokens]
        x = place(self.layout, x)
        layers = jnp.arange(c.num_layers)
        windowed = jnp.asarray(c.windowed or (False,) * c.num_layers)
        block = Block
        if self.layout is not None:
            block = nn.map_variables(block, "params", trans_in_fn=self.layout.gather_layer)
        if cache is None:
            block = nn.remat(block, prevent_cse=False, policy=None if self.remat else self.keep)
        if self.has_variable("loose", "layers"):
            x, cache = self._one_by_one(x, cache, windowed, context)
            return self._head(x, embed, output), cache._replace(slot=cache.slot + tokens.shape[1])
        stack = nn.scan(
            block,
            variable_axes={
                "params": 0,
                "lora": 0,
                "joined": 0,
                "statistics": 0,
                "probes": 0,
                "representations": 0,
            },
            split_rngs={"params": True},
            in_axes=(0, 0, nn.broadcast),
            length=c.num_layers,
        )
        if self.attention not in ATTENTION:
            raise InputError(f"attention is {self.attention!r}; expected one of {', '.join(ATTENTION)}")
        kernel = KERNELS.get(jax.default_backend()) if self.attention == "fused" else None
        ordered = attention_mask is None and keys is None and c.window is None
        stacked = stack(c, self.layout, kernel, ordered, name="layers")
        (x, cache), _ = stacked((x, cache), layers, windowed, context)
        x = self._head(x, embed, output)
        if cache is None:
            return x
        return x, cache._replace(slot=cache.slot + tokens.shape[1])

    def _one_by_one(self, x, cache, windowed, context):
        """Run layers whose weights and caches come apart: nothing is copied out of a stack at every step."""
        block, found = Block(self.config, self.layout, parent=None), []
        layers: Any = self.get_variable("loose", "layers")
        for i, (weights, k, v) in enumerate(zip(layers, cache.k, cache.v, strict=True)):
            (x, one), _ = block.apply(weights, (x, LayerCache(k, v, cache.slot)), i, windowed[i], context)
            found.append(one)
        return x, cache._replace(k=tuple(one.k for one in found), v=tuple(one.v for one in found))

    def _head(self, x, embed, output):
        c = self.config
        x = Norm(c.eps, name="norm")(x)
        name = "embed" if c.tied else "lm_head"
        head = embed if c.tied else self.param(name, nn.initializers.normal(0.02), embed.shape)
        if output == "hidden":
            return x
        x = x[:, -1:] if output == "last" else x
        if self.has_variable("joined", "head"):
            return jnp.matmul(x, self.get_variable("joined", "head"), preferred_element_type=jnp.float32)
        return jnp.einsum("btd,vd->btv", x, self._gathered(name, head), preferred_element_type=jnp.float32)

    def _gathered(self, name: str, weight):
        return weight if self.layout is None else self.layout.gather(name, weight)

    def _context(self, tokens, attention_mask, positions, keys, cache, response_mask, rotary):
        c = self.config
        length = tokens.shape[1]
        attend = jnp.ones(tokens.shape, bool) if attention_mask is None else attention_mask.astype(bool)
        if positions is None:
            positions = jnp.maximum(jnp.cumsum(attend, axis=-1, dtype=jnp.int32) - 1, 0)
        queries = jnp.arange(length)
        if keys is not None:  # one new position against the cache
            attend, queries = keys, queries + cache.slot
        slots = jnp.arange(attend.shape[1])
        mask = (slots <= queries[:, None]) & attend[:, None]
        near = None
        if c.window is not None:
            near = jnp.broadcast_to(queries[:, None] - slots < c.window, mask.shape)
        if rotary is None:
            cos, sin = rotary_embedding(c, positions)
        else:
            cos, sin = (table[positions] for table in rotary)
        return Context(cos[:, :, None], sin[:, :, None], mask, near, response_mask)


@functools.partial(jax.jit, static_argnames=("model", "output"))
def forward(model: Llama, params, lora, tokens, attention_mask=None, *, output: str = "logits"):
    """Run the model on whole sequences; see ``Llama``."""
    return everywhere(model, model.apply(variables(params, lora), tokens, attention_mask, output=output))


def everywhere(model: Llama, leaf):
    """Put what a model has made on all devices of its mesh, where it lies over one."""
    return leaf if model.layout is None else model.layout.everywhere(leaf)


def variables(params, lora) -> dict[str, Any]:
    """Return the collections for ``model.apply``: the base, and the expanded adapter where there is one."""
    return {"params": params} if lora is None else {"params": params, "lora": lora}
