"""A model whose weights are read when their turn comes, and the programs that run one of its decoder layers.

Every program is compiled once for all layers, as these have one shape. It is the part of the whole model's program
that one layer takes, so that its results have the same bits.

Axis legend: B batch, T positions, D embed, N rows that are taken one by one.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nlsr_jax.errors import InputError
from nlsr_jax.files.numbers import describe_range
from nlsr_jax.formats.layer_files import LayerFiles
from nlsr_jax.hardware import EXACT
from nlsr_jax.models.block import Block
from nlsr_jax.models.context import embedded, make_context
from nlsr_jax.models.llama import Llama
from nlsr_jax.models.shared_prefix import Rows, pack
from nlsr_jax.types import Params

Track = Callable[[Iterable, str, int], Iterable]
"""Shows the progress of some items with a description and their number, and yields them."""


@dataclasses.dataclass(frozen=True)
class StreamedParams:
    """Parameters that stay in their files.

    Attributes:
      files: read them.
      changed: entries of the tree without ``layers`` that stand in the place of those in the files.
      track: shows how far a pass has come.
      scratch: folder for activations that memory does not take; None for the system's temporary folder.
      kept: bytes of activations that memory takes; None for a share of what is left.
    """

    files: LayerFiles
    changed: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    track: Track = lambda items, description, total: items
    scratch: pathlib.Path | None = None
    kept: int | None = None

    def rest(self, *names: str) -> dict[str, Any]:
        """Return what is no decoder layer: those of ``"embed"``, ``"norm"`` and ``"lm_head"`` that the model has.

        The caller drops them before layers are read.

        Raises:
          InputError: a file that can no longer be read, or weights beyond what the type holds.
        """
        with np.errstate(over="ignore"):  # said by the check
            read = self.files.read_rest([name for name in names if name not in self.changed])
        check_range(read, self.dtype, self.files.where)
        return jax.device_put(read) | {name: self.changed[name] for name in names if name in self.changed}

    def end(self, model: Llama) -> dict[str, Any]:
        """Return what comes behind the layers: the last norm, and the head or the embedding in its place."""
        return self.rest("norm", "embed" if model.config.tied else "lm_head")

    @property
    def dtype(self) -> np.dtype:
        """The float type of the weights."""
        return self.files.dtype

    def layers(self, order: Sequence[int]) -> Iterator[tuple[int, Any]]:
        """Yield ``(layer, weights)`` in this order; drop one before the next is asked for.

        Raises:
          InputError: a file that can no longer be read, or weights beyond what the type holds.
        """
        layers = self.files.layers(order)
        for layer in self.track(order, "decoder layers", len(order)):
            held = next(layers)
            check_range(held[0], self.dtype, f"{self.files.where}, layer {layer}")
            yield layer, held.pop()


def check_range(params: Any, dtype: np.dtype, where: Any) -> None:
    """Refuse weights that the narrow type cannot hold; all others hold what files do.

    Raises:
      InputError: naming the weight.
    """
    if dtype != np.float16:
        return
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        if not bool(jnp.isfinite(leaf).all()):
            name = ".".join(str(part.key) for part in path)
            raise InputError(
                f"{where}: {name} has entries that are NaN or infinite in {describe_range(dtype)}; "
                "take bfloat16 or float32"
            )


@functools.partial(jax.jit, static_argnames="model")
def embed(rest: Params, rows: Rows, *, model: Llama) -> jax.Array:
    """Return what goes into the first layer, ``[..., T, D]``, packed behind a prefix."""
    return embedded(model.config, rest["embed"], pack(rows.prefix, rows.tokens))


def _run(model: Llama, weights, lora, x, windowed, rows: Rows, **captured: Any):
    """Run one layer on ``x [B, T, D]``; ``captured`` are further collections, and those are put out that change."""
    config = model.config
    context = make_context(config, rows.tokens, rows.attention, response_mask=rows.response, prefix=rows.prefix)
    ordered = rows.attention is None and config.window is None
    block = Block(config, None, None, ordered, parent=None)
    collections = {"params": weights, **({} if lora is None else {"lora": lora}), **captured}
    (carry, _), found = block.apply(collections, (x, None), 0, windowed, context, mutable=list(captured))
    return carry[0], found


@functools.partial(jax.jit, static_argnames="model", compiler_options=EXACT)
def run_layer(weights: Any, lora: Any, x: jax.Array, windowed: Any, rows: Rows, *, model: Llama) -> jax.Array:
    """Return what a layer makes of ``x``.

    Args:
      weights: of the layer.
      lora: its factors, ``{module: {"a": [r, k], "b": [d, r]}}``; None without an adapter.
      x: ``[B, T, D]``, or ``[N, 1, T, D]`` one by one.
      windowed: bool scalar, whether the layer attends within the window.
      rows: that ``x`` is of.
      model: the module.
    """
    if not rows.one_by_one:
        return _run(model, weights, lora, x, windowed, rows)[0]
    return jax.lax.map(lambda one: _run(model, weights, lora, one[0], windowed, one[1])[0], (x, rows))


def capture_layer(
    model: Llama, weights: Any, lora: Any, x: jax.Array, windowed: Any, rows: Rows, roots: Any
) -> tuple[jax.Array, Any]:
    """Return what a layer makes of ``x [B, T, D]``, and the statistics of its modules.

    Args:
      model, weights, lora, x, windowed, rows: see ``run_layer``.
      roots: ``{module: {"root": [r, r]}}``, the roots so far.
    """
    found, captured = _run(model, weights, lora, x, windowed, rows, statistics=roots)
    return found, captured["statistics"]


def pull_layer(
    model: Llama, part: Callable[[Any], tuple[Any, Any]], trained: Any, x: Any, windowed: Any, rows: Rows, d: Any
) -> Any:
    """Return the derivatives by what is trained and by ``x [B, T, D]``; the layer is computed again.

    Args:
      model, x, windowed, rows: see ``run_layer``.
      part: takes what is trained; returns weights and factors.
      trained: tree of arrays.
      d: derivative by the layer's output.
    """

    def run(trained, x):
        return _run(model, *part(trained), x, windowed, rows)[0]

    policy = None if model.remat else model.keep
    _, pull = jax.vjp(jax.checkpoint(run, prevent_cse=False, policy=policy), trained, x)
    # As in the whole model, what is kept comes out of one program and goes into another: fused, it would be rounded
    # elsewhere.
    return jax.lax.optimization_barrier(pull)(d)
