"""One decoder layer in Flax Linen: norms, projections with their adapters, attention, gated feed-forward.

What sets families apart is read from their tables (``architecture.families``). Weights keep the orientation of
Hugging Face files, ``[out, in]``.

Axis legend: B batch, T query, S key, D embed, F feed-forward, K kv heads, G query heads per kv head, H head
dim, r rank, N adapters, k in-features, d out-features.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from nlsr_jax.architecture.config import ModelConfig
from nlsr_jax.models.attention import Scaling, attend
from nlsr_jax.models.context import Context
from nlsr_jax.models.experts import Experts, stack_factors
from nlsr_jax.models.fused_attention import attend_fused
from nlsr_jax.models.norm import Norm
from nlsr_jax.models.product import linear, product
from nlsr_jax.models.projection import adapted, beside, joined_name, thin
from nlsr_jax.models.rotary import rotate
from nlsr_jax.models.shared_prefix import attend_packed, is_packed
from nlsr_jax.nlsr.statistics import batch_statistics
from nlsr_jax.parallel import Layout

_ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "silu": nn.silu,
    "gelu_tanh": functools.partial(nn.gelu, approximate=True),
}


def place(layout: Layout | None, leaf: jax.Array, split: int | None = None) -> jax.Array:
    """Lay activations over the mesh, where there is one; see ``Layout.place``."""
    return leaf if layout is None else layout.place(leaf, split)


class Projection(nn.Module):
    """``y = W x + b``, plus ``B A x`` where the ``lora`` collection has factors for it.

    Factors of several adapters, ``[N, r, k]`` and ``[N, d, r]``, go each with an N-th of the rows.
    """

    features: int
    bias: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, keep: jax.Array | None = None) -> Any:
        kernel = self.param("kernel", nn.initializers.normal(0.02), (self.features, x.shape[-1]))
        several = self.adapters()
        if self.has_variable("lora", "a") and several is None:
            a: jax.Array = self.get_variable("lora", "a")
            y = adapted(x, kernel, a, self.get_variable("lora", "b"))
            if self.is_mutable_collection("statistics"):
                flat = x.reshape(-1, x.shape[-1])
                self._capture(flat, thin(flat, a), keep)
        else:
            y = linear(x, kernel)
            if several is not None:
                y = y + beside(x, *several).astype(y.dtype)
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
      last: put out the last position alone; no other is taken further than to the keys and values.
    """

    config: ModelConfig
    layout: Layout | None = None
    kernel: str | None = None
    ordered: bool = False
    last: bool = False

    def setup(self) -> None:
        c = self.config
        for name, (_, features) in c.projections().items():
            setattr(self, name, Projection(features, c.bias(name)))
        for name, _ in c.table.norms:
            setattr(self, name, Norm(c))
        if c.qk_norm:
            self.q_norm, self.k_norm = Norm(c), Norm(c)
        if c.experts is not None:
            self.experts = Experts(c, _ACTIVATIONS[c.activation])

    def __call__(self, carry: Any, layer: Any, windowed: jax.Array, context: Context) -> Any:
        x, cache = carry
        before = x
        attended, cache = self._attention(self._normed("input_norm", x), cache, layer, windowed, context)
        x = x[:, -1:] if self.last else x
        attended = self._normed("attended_norm", attended)
        if self.has_variable("probes", "attention"):
            attended = attended + self.get_variable("probes", "attention").astype(attended.dtype)
        x = x + attended
        h = self._feed_forward(self._normed("post_norm", x), context.keep)
        h = self._normed("fed_norm", place(self.layout, h))
        if self.is_mutable_collection("representations"):
            self.put_variable("representations", "input", before)
            self.put_variable("representations", "feed_forward", h)
        return (x + h, cache), None

    def _normed(self, name: str, x):
        """Apply a norm, where the family has one there."""
        return getattr(self, name)(x) if any(name == known for known, _ in self.config.table.norms) else x

    def _feed_forward(self, x, keep):
        c = self.config
        if c.experts is not None:
            return self._through_experts(x, keep)
        gate, up = self._split(c.table.feed_forward_inputs, x, keep, (c.intermediate_size,) * 2)
        (h,) = self._products(("down_proj",), place(self.layout, _ACTIVATIONS[c.activation](gate) * up), keep)
        return h

    def _through_experts(self, x, keep):
        """Run the experts with their adapters, which are named by the path of an expert's module."""
        modules = self.config.expert_modules() | self.config.expert_slices()
        found = {name: leaf for name, leaf in self.variables.get("lora", {}).items() if name in modules}
        factors = stack_factors(found, self.config)
        y, captured = self.experts(x, factors)
        if found and self.is_mutable_collection("statistics"):
            keep = jnp.ones(x.shape[:-1], bool) if keep is None else keep
            so_far = self.variables.get("statistics", {})
            for name, leaf in found.items():
                own, expert = modules[name][0]
                rows, mask = captured.of_expert(own, expert, keep)
                root = so_far.get(name, {}).get("root")
                self.put_variable("statistics", name, batch_statistics(rows, thin(rows, leaf["a"]), mask, root))
        return y

    def _split(self, names: tuple[str, ...], x, keep, widths: tuple[int, ...]) -> tuple[jax.Array, ...]:
        """Return what projections of one input put out, cut into parts where they are one module."""
        parts = self._products(names, x, keep)
        if len(parts) == len(widths):
            return parts
        return tuple(jnp.split(parts[0], np.cumsum(widths[:-1]), axis=-1))

    def _products(self, names: tuple[str, ...], x, keep) -> tuple[jax.Array, ...]:
        """Return what projections of one input put out, by one product where they are joined; see ``join``."""
        name = joined_name(names)
        if not self.has_variable("joined", name):
            return tuple(getattr(self, one)(x, keep) for one in names)
        y = product("...k,kd->...d", x, self.get_variable("joined", name))
        if self.has_variable("joined", f"{name}_bias"):
            y = y + self.get_variable("joined", f"{name}_bias")
        if self.has_variable("joined", f"{name}_a"):
            of_one: Any = [self.get_variable("joined", f"{name}_{part}") for part in "ab"]
            y = y + beside(x, *of_one).astype(y.dtype)
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

        q, k, v = self._split(c.table.attention_inputs, x, context.keep, c.attention_widths())
        if c.table.qk_norm == "whole":
            q, k = self.q_norm(q), self.k_norm(k)
        q, k, v = split(q, c.num_heads), split(k, c.num_kv_heads), split(v, c.num_kv_heads)
        if c.table.qk_norm == "head":
            q, k = self.q_norm(q), self.k_norm(k)
        rotary = context.rotary.of_layer(windowed)
        q, k = rotate(q, rotary), rotate(k, rotary)
        k, v = jnp.swapaxes(k, 1, 2), jnp.swapaxes(v, 1, 2)
        mask = context.mask if context.near is None else context.mask & (context.near | ~windowed)
        q = q.reshape(batch, length, c.num_kv_heads, -1, c.head_dim)
        scaling = Scaling(c.query_scale, c.attention_cap)
        if cache is not None:
            cache = cache.extended(layer, k, v)
            if mask.shape[-1] != length:  # what starts an empty cache sees only itself
                k, v = cache.seen(layer)
        if is_packed(x, mask):
            out = attend_packed(q, k, v, mask, scaling)
        else:
            fused = None if length == 1 else attend_fused(self.kernel, q, k, v, None if self.ordered else mask)
            out = attend(q, k, v, mask, scaling) if fused is None else fused
        out = place(self.layout, out.reshape(batch, length, -1))
        out = out[:, -1:] if self.last else out
        (out,) = self._products(("o_proj",), out, context.keep)
        return place(self.layout, out), cache
