"""LoRA factors of whole parameters that hold all experts of a layer, read as those of a module for each expert.

PEFT keeps the factors of a parameter of E experts in two matrices: ``A [E r, k]``, expert after expert, and
``B [d, r E]``, the experts' columns of one rank side by side. The update of expert e is
``B[:, e::E] A[e r : (e + 1) r]``.

Source: PEFT's ``ParamWrapper``, which adapts ``target_parameters``.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from nlsr_jax.errors import InputError
from nlsr_jax.files.safetensors_files import SafetensorsFile
from nlsr_jax.modules import Slice

STACKED = ("gate_up_proj", "down_proj")
"""Names of parameters of all experts, in the order in which models define them. PEFT wraps the first innermost."""
_FACTOR = re.compile(
    r"(?P<experts>(?:.+\.)?experts)(?P<inside>(?:\.base_layer)*)\.lora_(?P<factor>[AB])(?P<adapter>(?:\.[^.]+)?)\.weight"
)
_INSIDE = ".base_layer"


class Piece(NamedTuple):
    """Where the factor of one expert is.

    Attributes:
      key: name of the tensor of all experts.
      factor: ``"A"`` or ``"B"``.
      expert, experts: which of how many.
    """

    key: str
    factor: str
    expert: int
    experts: int

    def shape(self, whole: tuple[int, ...]) -> tuple[int, ...]:
        """Return its shape, given that of the whole tensor."""
        axis = 0 if self.factor == "A" else 1
        return tuple(size // self.experts if i == axis else size for i, size in enumerate(whole))


class ExpertsFile(SafetensorsFile):
    """An open PEFT file in which every expert's factors have a name of their own.

    Args:
      file: the open file.
      parameters: the config's ``target_parameters``.
      rank: returns the rank that the config gives to the module at a path.

    Raises:
      InputError: factors of experts that the config does not adapt, or whose sizes contradict it.
    """

    def __init__(self, file: SafetensorsFile, parameters: Iterable[str], rank: Callable[[str], int]):
        self.path, self.metadata, self._file = file.path, file.metadata, file
        keys = [(name, match) for name in file.names() if (match := _FACTOR.fullmatch(name))]
        held = _held(str(file.path), [(match["experts"], match["inside"]) for _, match in keys], parameters)
        self._pieces: dict[str, Piece] = {}
        for key, match in keys:
            parameter = f"{match['experts']}.{held[match['experts'], match['inside']]}"
            for piece in _cut(file, key, match["factor"], rank(Slice(parameter, 0).name)):
                end = f".lora_{match['factor']}{match['adapter']}.weight"
                self._pieces[f"{Slice(parameter, piece.expert).name}{end}"] = piece
        taken = {key for key, _ in keys}
        self._others = tuple(name for name in file.names() if name not in taken)

    def names(self) -> tuple[str, ...]:
        """Return the names, sorted; see ``SafetensorsFile``."""
        return tuple(sorted([*self._others, *self._pieces]))

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor."""
        piece = self._pieces.get(name)
        return self._file.shape(name) if piece is None else piece.shape(self._file.shape(piece.key))

    def dtype(self, name: str) -> str:
        """Return the type of a tensor."""
        piece = self._pieces.get(name)
        return self._file.dtype(name if piece is None else piece.key)

    def read(self, name: str, out: np.ndarray | None = None) -> np.ndarray:
        """Read one tensor; see ``SafetensorsFile.read``."""
        piece = self._pieces.get(name)
        if piece is None:
            return self._file.read(name, out)
        if piece.factor == "A":
            rank = self.shape(name)[0]
            found = self._file.read_rows(piece.key, slice(piece.expert * rank, (piece.expert + 1) * rank))
        else:
            found = self._file.read(piece.key)[:, piece.expert :: piece.experts]
        if out is None:
            return np.ascontiguousarray(found)
        out[...] = found
        return out

    def blocks(self, name: str) -> Iterator[memoryview]:
        """Yield the bytes of a tensor that is not of an expert; see ``SafetensorsFile.blocks``."""
        return self._file.blocks(name)


def stacked_name(parameter: str, others: Iterable[str]) -> str:
    """Return the path under which PEFT keeps the factors of a parameter.

    Args:
      parameter: its path, such as ``model.layers.0.mlp.experts.gate_up_proj``.
      others: the paths of all parameters of these experts that are adapted.

    >>> both = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    >>> [stacked_name(one, both) for one in both]
    ['mlp.experts.base_layer', 'mlp.experts']
    """
    experts, _, leaf = parameter.rpartition(".")
    leaves = _ordered({one.rpartition(".")[2] for one in others if one.rpartition(".")[0] == experts})
    return experts + _INSIDE * leaves.index(leaf)


def _ordered(leaves: set[str]) -> list[str]:
    """Return the parameters of the same experts from the outermost of PEFT's wrappers to the innermost."""
    return sorted(leaves, key=lambda leaf: -STACKED.index(leaf) if leaf in STACKED else 1)


def _held(where: str, found: list[tuple[str, str]], parameters: Iterable[str]) -> dict[tuple[str, str], str]:
    """Return which parameter the factors under each pair of path and wrappers are of."""
    names = tuple(parameters)
    held: dict[tuple[str, str], str] = {}
    for experts in dict.fromkeys(path for path, _ in found):
        depths = sorted({inside for path, inside in found if path == experts}, key=len)
        leaves = {
            leaf
            for before, _, leaf in (name.rpartition(".") for name in names)
            if not before or f".{experts}".endswith(f".{before}")
        }
        unknown = sorted(leaves - set(STACKED)) if len(leaves) > 1 else []
        if len(leaves) != len(depths) or unknown:
            raise InputError(
                f"{where}: holds {len(depths)} pairs of factors of {experts[-100:]}, of which target_parameters "
                f"names {', '.join(sorted(leaves)) or 'none'}; expected {' and '.join(STACKED)}, or one of them"
            )
        held |= {(experts, inside): leaf for inside, leaf in zip(depths, _ordered(leaves), strict=True)}
    return held


def _cut(file: SafetensorsFile, key: str, factor: str, rank: int) -> list[Piece]:
    shape = file.shape(key)
    whole = shape[0 if factor == "A" else 1] if len(shape) == 2 else 0
    if not whole or whole % rank:
        raise InputError(
            f"{file.path}: {key!r} has shape {list(shape)}, the config says rank {rank}; expected "
            f"{'[E r, k]' if factor == 'A' else '[d, r E]'} for E experts"
        )
    return [Piece(key, factor, expert, whole // rank) for expert in range(whole // rank)]
