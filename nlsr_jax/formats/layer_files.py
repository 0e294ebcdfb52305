"""The weights of a model read one decoder layer at a time, the next one while the one before is in use."""

import concurrent.futures
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from nlsr_jax.architecture.weights import Weight
from nlsr_jax.formats.hugging_face import Weights, read_part

Path = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class LayerFiles:
    """Open weight files of a model; quantised weights are dequantised layer by layer.

    Attributes:
      weights: found and checked.
      dtype: float type in which they are read.
      replaced: ``{path: {layer: value}}``, what stands in the place of some layers of a weight; paths are of
        ``read_layer``.
    """

    weights: Weights
    dtype: np.dtype
    replaced: Mapping[Path, Mapping[int, np.ndarray]] = dataclasses.field(default_factory=dict)

    @property
    def where(self) -> str:
        """The folder of the files, for messages."""
        return str(next(iter(self.weights.files.values()))[0].path.parent)

    @property
    def num_layers(self) -> int:
        """How many decoder layers there are."""
        return self.weights.config.num_layers

    @property
    def layer_bytes(self) -> int:
        """Bytes of one decoder layer; all are alike."""
        stacked = (weight for weight in self.weights.table if weight.path[0] == "layers")
        return sum(int(np.prod(weight.shape[1:])) for weight in stacked) * self.dtype.itemsize

    def read_rest(self, names: Sequence[str]) -> dict[str, Any]:
        """Read what is no decoder layer: those of the names, such as ``"embed"``, that the model has.

        Raises:
          InputError: a file that can no longer be read.
        """
        table = [weight for weight in self.weights.table if weight.path[0] in names]
        return _tree({weight.path: self._part(weight, None) for weight in table})

    def read_layer(self, layer: int) -> dict[str, Any]:
        """Read one decoder layer: the tree of ``params["layers"]`` without the leading axis, as host arrays.

        Raises:
          InputError: a file that can no longer be read.
        """
        table = [weight for weight in self.weights.table if weight.path[0] == "layers"]
        return _tree({weight.path[1:]: self._part(weight, layer) for weight in table})

    def _part(self, weight: Weight, layer: int | None) -> np.ndarray:
        bounds = [(0, size) for size in weight.shape]
        if layer is None:
            return read_part(weight, self.weights.files, self.dtype, bounds)
        changed = self.replaced.get(weight.path[1:], {})
        if layer in changed:
            return changed[layer].astype(self.dtype)
        return read_part(weight, self.weights.files, self.dtype, [(layer, layer + 1), *bounds[1:]])[0]

    def layers(self, order: Sequence[int]) -> Iterator[list[dict[str, Any]]]:
        """Yield layers in this order, on the device; the next one is read while one is in use.

        Each comes in a list, which the caller empties. No more than two layers are in memory if one is dropped
        before the next is asked for.
        """
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(self._read_held, order[0])
            for after in [*order[1:], None]:
                held = waiting.result()
                if after is not None:
                    waiting = pool.submit(self._read_held, after)
                yield held

    def _read_held(self, layer: int) -> list[dict[str, Any]]:
        """Read a layer into a list: whoever pops it holds it alone."""
        with np.errstate(over="ignore"):  # float16 is checked by who takes the layer
            return [jax.device_put(self.read_layer(layer))]


def _tree(leaves: Mapping[Path, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path, leaf in leaves.items():
        node = found
        for name in path[:-1]:
            node = node.setdefault(name, {})
        node[path[-1]] = leaf
    return found
