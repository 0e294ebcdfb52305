"""The projections' matrices of a model directory, found and checked, and read one at a time."""

import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from nlsr_jax.architecture.config import ModelConfig
from nlsr_jax.architecture.weights import Weight
from nlsr_jax.errors import InputError
from nlsr_jax.files.numbers import check_finite
from nlsr_jax.files.paths import expand, is_folder, is_regular
from nlsr_jax.files.safetensors_files import SafetensorsFile
from nlsr_jax.formats.hugging_face import open_weights, read_config, resolve
from nlsr_jax.formats.quantised_weight import QuantisedWeight
from nlsr_jax.formats.weight_files import INDEX, WEIGHTS, locate
from nlsr_jax.modules import module_order


class Place(NamedTuple):
    """Where a tensor is: its name in a whole model, its file, and its name there."""

    name: str
    file: SafetensorsFile
    own: str


class ModelMatrices:
    """The matrices of the projections of every decoder layer, those of experts too, read one at a time.

    Args:
      path: Hugging Face directory or hub id.

    Attributes:
      path: the argument, as text.
      folder: the local directory.
      config: the model's config.
      notes: what a user should know of files that are not in order.

    Raises:
      InputError: files that are missing, damaged or quantised, or a model that is not supported.
    """

    def __init__(self, path: str | os.PathLike):
        self.path, self.folder = str(path), resolve(path)
        found = open_weights(self.folder, read_config(self.folder), None)
        self.config: ModelConfig = found.config
        self.notes = found.notes
        self._places = {
            module: [Place(name, *found.files[name]) for name in names]
            for module, names in matrix_names(found.table, self.config).items()
        }

    @property
    def modules(self) -> tuple[str, ...]:
        """Names of the projections, in module order; those of single experts are named by their paths."""
        return tuple(self._places)

    @property
    def num_layers(self) -> int:
        """Number of decoder layers."""
        return self.config.num_layers

    def __iter__(self) -> Iterator[tuple[str, int]]:
        """Yield ``(module, layer)`` of all matrices, layer by layer."""
        return ((module, layer) for layer in range(self.num_layers) for module in self.modules)

    def place(self, module: str, layer: int) -> Place:
        """Return where a matrix is."""
        return self._places[module][layer]

    def shape(self, module: str, layer: int = 0) -> tuple[int, int]:
        """Return ``(d, k)`` of a matrix."""
        place = self.place(module, layer)
        d, k = place.file.shape(place.own)
        return d, k

    def read(self, module: str, layer: int) -> np.ndarray:
        """Read one matrix, ``[d, k]``, in its own type.

        Raises:
          InputError: the file can no longer be read, or an entry is NaN or infinite.
        """
        place = self.place(module, layer)
        found = place.file.read(place.own)
        check_finite(found, f"{place.file.path}: {place.own}", "fetch the file again")
        return found

    def all_tensors(self) -> dict[str, SafetensorsFile]:
        """Return the file of every tensor of the directory, by its name there."""
        return locate(self.folder).files

    def is_quantised(self) -> bool:
        """Whether matrices are dequantised on reading."""
        return any(isinstance(self.place(*one).file, QuantisedWeight) for one in self)

    def check_same_shapes(self, other: "ModelMatrices", why: str) -> None:
        """Check that another model has matrices of the same shapes.

        Args:
          other: the model.
          why: what follows if it has not.

        Raises:
          InputError: it has not.
        """
        for module in dict.fromkeys([*self.modules, *other.modules]):
            one, two = (model._describe(module) for model in (other, self))
            if one != two:
                raise InputError(f"{other.path}: has {one}, {self.path} has {two}; {why}")

    def _describe(self, module: str) -> str:
        if module not in self._places:
            return f"no {module}"
        return f"{self.num_layers} layers of {module} {list(self.shape(module))}"


def matrix_names(table: Iterable[Weight], config: ModelConfig) -> dict[str, tuple[str, ...]]:
    """Return the names of the tensors of every projection, ``{module: one name per layer}``, in module order.

    Args:
      table: of the model's parameters.
      config: of the model.
    """
    stacked = {weight.path[1:]: weight.names for weight in table if weight.path[0] == "layers"}
    found = {path[0]: names for path, names in stacked.items() if path[-1] == "kernel"}
    for module, ((own, expert), _) in config.expert_modules().items():
        assert config.experts is not None
        found[module] = stacked["experts", own][expert :: config.experts.count]
    return {module: found[module] for module in sorted(found, key=module_order)}


def is_model_folder(path: str | os.PathLike | None) -> bool:
    """Whether a folder holds a full model: a config and weights, and no adapter's config."""
    if not path or not is_folder(path):
        return False
    folder = pathlib.Path(expand(path))
    if is_regular(folder / "adapter_config.json") or not is_regular(folder / "config.json"):
        return False
    return any(is_regular(folder / name) for name in (WEIGHTS, INDEX)) or any(folder.glob("*.safetensors"))
