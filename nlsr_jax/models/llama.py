"""Decoder of a language model in Flax Linen: one block (see ``block``), stacked and scanned over the layers.

The families differ by their tables (``architecture.families``) alone. Weights keep the orientation of Hugging Face
files, ``[out, in]``, with a leading axis L for the layers. Separate collections: ``params`` (the base), ``lora``
(factors whose scaling is folded into ``b``), ``statistics``, ``representations`` (a layer's input and feed-forward
output; both captured where they are mutable), ``probes`` (added to what attention puts out, where they are given),
``joined`` (weights as generation reads them; see ``join``), and ``loose`` (the layers' collections one by one, in
place of the stack).

Axis legend: B batch, T query, S key, D embed, H head dim, L layers, P positions of a table, V vocabulary.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from nlsr_jax import hardware
from nlsr_jax.architecture.config import ModelConfig
from nlsr_jax.errors import InputError
from nlsr_jax.models.block import Block, place
from nlsr_jax.models.cache import LayerCache
from nlsr_jax.models.context import embedded, final_logits, make_context
from nlsr_jax.models.fused_attention import ATTENTION
from nlsr_jax.models.norm import Norm, soft_cap
from nlsr_jax.models.projection import PRODUCT
from nlsr_jax.models.shared_prefix import pack, unpack
from nlsr_jax.parallel import Layout
from nlsr_jax.types import Params

# A product that has a derivative of its own shows as no product to the policy: it goes by name.
_PRODUCTS = jax.checkpoint_policies.save_from_both_policies(
    jax.checkpoint_policies.dots_saveable, jax.checkpoint_policies.save_only_these_names(PRODUCT)
)


class Llama(nn.Module):
    """A causal language model of any of the ``architecture.families``.

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
        tokens: jax.Array,
        attention_mask: jax.Array | None = None,
        *,
        response_mask: jax.Array | None = None,
        cache: Any = None,
        positions: jax.Array | None = None,
        keys: jax.Array | None = None,
        rotary: Any = None,
        prefix: jax.Array | None = None,
        output: str = "logits",
    ) -> Any:
        """Run the model.

        Args:
          tokens: ``[B, T]`` int32.
          attention_mask: ``[B, T]`` bool, False at padding (left or right); None for no padding.
          response_mask: ``[B, T]`` bool, the positions that ``statistics`` counts.
          cache: keys and values so far; without ``keys`` it must be empty. With the collection ``loose``, a tuple
            of caches of the layers in ``k`` and ``v``.
          positions: ``[B, T]`` int32 positions; counted from the first unmasked token by default.
          keys: ``[B, S]`` bool, slots of the cache that may be attended, the new ones among them.
          rotary: tables with leaves ``[P, H/2]`` to read the rotary embedding from, where it is not to be computed
            anew at every layer of every step; see ``rotary_embedding``.
          prefix: ``[P]`` int32 before every row, computed once; see ``nlsr_jax.models.shared_prefix``. Without a
            cache and an attention mask.
          output: ``"logits"`` of all positions, ``"last"`` (of the last one), or ``"hidden"`` states.

        Returns:
          ``[B, T, V]`` (``[B, 1, V]``, ``[B, T, D]``) float32 logits or hidden states; with a cache
          ``(logits, cache)``.
        """
        c = self.config
        embed = self.param("embed", nn.initializers.normal(0.02), (c.vocab_size, c.hidden_size))
        context = make_context(
            c,
            tokens,
            attention_mask,
            positions=positions,
            keys=keys,
            slot=0 if cache is None else cache.slot,
            response_mask=response_mask,
            rotary=rotary,
            prefix=prefix,
        )
        x = place(self.layout, embedded(c, self._gathered("embed", embed), pack(prefix, tokens)))
        layers = jnp.arange(c.num_layers)
        windowed = jnp.asarray(c.windowed or (False,) * c.num_layers)
        block = Block
        if self.layout is not None:
            block = nn.map_variables(block, "params", trans_in_fn=self.layout.gather_layer)
        if cache is None:
            block = nn.remat(block, prevent_cse=False, policy=None if self.remat else self.keep)
        if self.attention not in ATTENTION:
            raise InputError(f"attention is {self.attention!r}; expected one of {', '.join(ATTENTION)}")
        kernel = hardware.attention_kernel() if self.attention == "fused" else None
        ordered = attention_mask is None and keys is None and c.window is None
        if self.has_variable("loose", "layers"):
            x, cache = self._one_by_one(x, cache, windowed, context, kernel, ordered, output)
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
        stacked = stack(c, self.layout, kernel, ordered, name="layers")
        (x, cache), _ = stacked((x, cache), layers, windowed, context)
        x = self._head(unpack(x, tokens.shape), embed, output)
        if cache is None:
            return x
        return x, cache._replace(slot=cache.slot + tokens.shape[1])

    def _one_by_one(self, x, cache, windowed, context, kernel: str | None, ordered: bool, output: str):
        """Run layers whose weights and caches come apart: nothing is copied out of a stack at every step."""
        found: list[LayerCache] = []
        layers: Any = self.get_variable("loose", "layers")
        for i, (weights, k, v) in enumerate(zip(layers, cache.k, cache.v, strict=True)):
            last = output == "last" and i + 1 == len(layers)
            block = Block(self.config, self.layout, kernel, ordered, last, parent=None)
            x, one = _run_alone(block, weights, x, LayerCache(k, v, cache.slot), windowed[i], context)
            found.append(one)
        return x, cache._replace(k=tuple(one.k for one in found), v=tuple(one.v for one in found))

    def _head(self, x, embed, output):
        c = self.config
        x = Norm(c, name="norm")(x)
        name = "embed" if c.tied else "lm_head"
        head = embed if c.tied else self.param(name, nn.initializers.normal(0.02), embed.shape)
        if output == "hidden":
            return x
        x = x[:, -1:] if output == "last" else x
        if not self.has_variable("joined", "head"):
            return final_logits(c, x, self._gathered(name, head))
        scores = jnp.matmul(x, self.get_variable("joined", "head"), preferred_element_type=jnp.float32)
        return soft_cap(scores, c.logit_cap)

    def _gathered(self, name: str, weight):
        return weight if self.layout is None else self.layout.gather(name, weight)


@functools.partial(jax.jit, static_argnames="block")
def _run_alone(block, weights, x, cache: LayerCache, windowed, context):
    """Run one layer whose weights come apart; layers of the same shapes are traced once."""
    (x, cache), _ = block.apply(weights, (x, cache), 0, windowed, context)
    return x, cache


@functools.partial(jax.jit, static_argnames=("model", "output"))
def forward(
    model: Llama,
    params: Params,
    lora: Any,
    tokens: jax.Array,
    attention_mask: jax.Array | None = None,
    *,
    output: str = "logits",
) -> Any:
    """Run the model on whole sequences; see ``Llama``."""
    return everywhere(model, model.apply(variables(params, lora), tokens, attention_mask, output=output))


def everywhere(model: Llama, leaf: Any) -> Any:
    """Put what a model has made on all devices of its mesh, where it lies over one."""
    return leaf if model.layout is None else model.layout.everywhere(leaf)


def variables(params: Params, lora: Any) -> dict[str, Any]:
    """Return the collections for ``model.apply``: the base, and the expanded adapter where there is one."""
    return {"params": params} if lora is None else {"params": params, "lora": lora}


def hidden_states(
    model: Llama, params: Params, lora: Any, tokens: jax.Array, prefix: jax.Array | None = None
) -> jax.Array:
    """Return the final hidden states ``[B, T, D]`` of tokens ``[B, T]``, padded on the right, behind a prefix."""
    states: Any = model.apply(variables(params, lora), tokens, prefix=prefix, output="hidden")
    return states
