"""Passes over calibration data with one decoder layer in memory at a time.

Layers come first and batches second: however many batches there are, every layer is read once on the way forward
and once on the way back. What goes into a layer is kept for the way back (see ``activations``); what happens inside
is computed again there.

Axis legend: B batch, T positions, D embed, L layers, N rows one by one.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nlsr_jax.calibration.activations import Activations
from nlsr_jax.models.llama import Llama
from nlsr_jax.models.shared_prefix import Rows
from nlsr_jax.models.streamed import StreamedParams, embed, run_layer


class Flow(NamedTuple):
    """Batches that go through the layers with one adapter.

    Attributes:
      lora: expanded adapter; None for the base alone.
      batches: the rows of every batch.
      returns: whether derivatives come back.
    """

    lora: Any
    batches: Sequence[Rows]
    returns: bool = False


class Turn(NamedTuple):
    """One layer and one batch on the way back; tuples are of the returning flows.

    Attributes:
      layer, batch: their numbers.
      weights, lora: of the layer.
      windowed: whether it attends within the window.
      x, rows, d: inputs, rows, and derivatives by the outputs.
    """

    layer: int
    batch: int
    weights: Any
    lora: Any
    windowed: Any
    x: tuple
    rows: tuple[Rows, ...]
    d: tuple


class Stream:
    """Flows on their way through the layers of a model.

    Args:
      model, params: from ``stream_model``.
      flows: what goes through.

    Raises:
      InputError: activations that no disk takes.
    """

    def __init__(self, model: Llama, params: StreamedParams, flows: Sequence[Flow]):
        self.model, self.params, self.flows = model, params, flows
        self.store = Activations(self._size(), params.scratch, params.kept)

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *_: Any) -> None:
        self.store.__exit__()

    def _size(self) -> int:
        width = self.model.config.hidden_size * self.params.dtype.itemsize
        slots = {True: self.model.config.num_layers + 1, False: 1}
        return sum(slots[flow.returns] * rows.positions * width for flow in self.flows for rows in flow.batches)

    def place(self, flow: int, batch: int, layer: int) -> tuple[int, int, int]:
        """Return where the input of a layer is kept; what needs no way back has one place for all layers."""
        return flow, batch, layer if self.flows[flow].returns else 0

    def each(self) -> Iterator[tuple[int, int, Rows]]:
        """Yield ``(flow, batch, rows)`` of all batches of all flows."""
        for number, flow in enumerate(self.flows):
            for batch, rows in enumerate(flow.batches):
                yield number, batch, rows

    def forward(self) -> None:
        """Take all flows through all layers."""
        self.embed()
        for layer, weights in self.params.layers(range(self.model.config.num_layers)):
            windowed = self.windowed(layer)
            for number, batch, rows in self.each():
                lora = layer_of(self.flows[number].lora, layer)
                x = self.store.get(self.place(number, batch, layer))
                x = run_layer(weights, lora, x, windowed, rows, model=self.model)
                self.store.put(self.place(number, batch, layer + 1), x)
            del weights

    def embed(self) -> None:
        """Put what goes into the first layer into its place."""
        table = self.params.rest("embed")
        for number, batch, rows in self.each():
            self.store.put(self.place(number, batch, 0), embed(table, rows, model=self.model))

    def windowed(self, layer: int) -> np.bool_:
        """Say whether a layer attends within the window."""
        return np.bool_(self.model.config.windowed[layer] if self.model.config.windowed else False)

    def final(self, batch: int) -> tuple[np.ndarray, ...]:
        """Return what left the last layer, ``[B, T, D]`` of every flow."""
        last = self.model.config.num_layers
        return tuple(self.store.get(self.place(number, batch, last)) for number in range(len(self.flows)))

    def turn(self, batch: int, d: Sequence[Any]) -> None:
        """Put the derivatives by what left the last layer, of the returning flows, into its place."""
        for number, one in zip(self.returning(), d, strict=True):
            self.store.put(self.place(number, batch, self.model.config.num_layers), one)

    def returning(self) -> list[int]:
        """Return the flows whose derivatives come back; they come first."""
        return [number for number, flow in enumerate(self.flows) if flow.returns]

    def backward(self, pull: Callable[..., Any]) -> Iterator[tuple[int, Any]]:
        """Take derivatives back through all layers and yield ``(layer, sums)``, the last layer first.

        Args:
          pull: takes a ``Turn``; returns a tree of sums over rows, and the derivatives by the inputs of the
            returning flows.
        """
        count, flows = self.model.config.num_layers, self.returning()
        for layer, weights in self.params.layers(range(count)[::-1]):
            total = None
            lora = layer_of(self.flows[0].lora, layer)
            for batch in range(len(self.flows[0].batches)):
                rows = tuple(self.flows[number].batches[batch] for number in flows)
                x = tuple(self.store.get(self.place(number, batch, layer)) for number in flows)
                d = tuple(self.store.get(self.place(number, batch, layer + 1)) for number in flows)
                found, d = pull(Turn(layer, batch, weights, lora, self.windowed(layer), x, rows, d))
                total = add(jax.tree.map(jnp.zeros_like, found) if total is None else total, found)
                for number, one in zip(flows, d, strict=True):
                    self.store.drop(self.place(number, batch, layer + 1))
                    self.store.put(self.place(number, batch, layer), one)
            del weights
            if total is not None:
                yield layer, total


@jax.jit
def add(first: Any, second: Any) -> Any:
    """Add two trees leaf by leaf."""
    return jax.tree.map(jnp.add, first, second)


def layer_of(tree: Any, layer: int) -> Any:
    """Return one layer of an expanded adapter; None stays None."""
    return None if tree is None else jax.tree.map(lambda leaf: leaf[layer], tree["layers"])
