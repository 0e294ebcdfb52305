"""Tensors of a PEFT file besides the factors of the decoder's projections; they are checked and kept unchanged.

These are factors of the output head, of the embedding or of another tower, modules that were trained whole
(``modules_to_save``), trained biases, and rows of single tokens.

Source: PEFT's names in ``peft.utils.save_and_load``, ``ModulesToSaveWrapper`` and ``TrainableTokensWrapper``.
"""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from nlsr_jax.errors import InputError
from nlsr_jax.files.safetensors_files import SafetensorsFile
from nlsr_jax.formats.peft_extras import Extras
from nlsr_jax.formats.peft_fields import PLAIN
from nlsr_jax.formats.peft_keys import WRAPPER, Stack, plain_path
from nlsr_jax.formats.peft_targets import Others, Target
from nlsr_jax.formats.peft_weights import StackedKeys

EMBEDDING, HEAD = "model.embed_tokens", "lm_head"
"""The names of input and output embedding in a text-only model."""
_NAME = r"(?:\.(?P<adapter>[^.]+))?"
_PARTS = (
    ("factor", re.compile(rf"(?P<module>.+)\.lora_(?P<which>[AB]){_NAME}\.weight")),
    ("embedding", re.compile(rf"(?P<module>.+)\.lora_embedding_(?P<which>[AB]){_NAME}")),
    ("rows", re.compile(rf"(?P<module>.+)\.token_adapter\.trainable_tokens_(?P<which>delta|original){_NAME}")),
    ("under", re.compile(r"(?P<module>.+)\.(?P<inside>token_adapter\.base_layer)\.(?P<which>[^.]+)")),
    ("under", re.compile(r"(?P<module>.+)\.(?P<inside>base_layer|original_module)\.(?P<which>[^.]+)")),
    ("copy", re.compile(rf"(?P<module>.+)\.(?P<inside>modules_to_save){_NAME}\.(?P<which>[^.]+)")),
    ("copy", re.compile(r"(?P<module>.+)\.(?P<which>[^.]+)")),
)  # fmt: skip
_REFUSED = (
    ("lora_magnitude_vector", "a DoRA magnitude, which rescales weights of the base"),
    ("lora_B.bias", "a bias of a factor"),
)
_HEADS = re.compile(r"(?:score|classifier|qa_outputs|v_head(?:\..+)?)")
_PRINTABLE = re.compile(r"[\w.+:@/ -]{1,500}", re.ASCII)


class CarriedTensor(NamedTuple):
    """One carried tensor.

    Attributes:
      key: its name in the file that was read.
      name: the name by which PEFT loads it.
      module: the path of its module in the model that PEFT wraps, such as ``lm_head``.
      kind: ``factor`` or ``embedding`` (LoRA factors), ``rows`` (of single tokens), ``copy`` (of a module trained
        whole, or of a weight of the base), ``under`` (a weight of the base below another kind).
      which: ``A`` or ``B``; ``delta`` or ``original``; or the name of the weight.
      inside: what stands between module and weight in the name.
    """

    key: str
    name: str
    module: str
    kind: str
    which: str
    inside: str


class Carried:
    """The carried tensors of one open file; empty for an adapter of plain factors.

    Attributes:
      tensors: what is carried, by name.
      stack: the list of layers of the text model.
      targets: rank and scaling of the modules that have factors here.
      extras: what the config says of them.
      note: what a user should know about them; empty if there are none.
    """

    def __init__(self, file: SafetensorsFile, tensors: list[CarriedTensor], stack: Stack, extras: Extras):
        self._file = file
        self.tensors = {tensor.name: tensor for tensor in sorted(tensors, key=lambda tensor: tensor.name)}
        self.stack, self.extras = stack, extras
        self.targets: Mapping[str, Target] = {}
        self.note = ""

    @property
    def prefix(self) -> str:
        """What stands before the list of layers in the module paths of the text model."""
        return self.stack.prefix

    def without(self) -> "Carried":
        """Return an empty ``Carried``, for an adapter that is made from the factors of this file alone."""
        return Carried(self._file, [], self.stack, Extras())

    def __bool__(self) -> bool:
        return bool(self.tensors)

    def of(self, module: str, *kinds: str) -> list[CarriedTensor]:
        """Return the tensors of one module, of these kinds."""
        return [tensor for tensor in self.tensors.values() if tensor.module == module and tensor.kind in kinds]

    def factored(self) -> tuple[str, ...]:
        """Return the modules that have factors here."""
        kinds = ("factor", "embedding")
        return tuple(dict.fromkeys(tensor.module for tensor in self.tensors.values() if tensor.kind in kinds))

    def text_name(self, module: str) -> str | None:
        """Return the name of a module in a text-only model, such as ``model.norm``; None for another tower."""
        parent, _, last = module.rpartition(".")
        if last == "lm_head" and f"{self.prefix}".startswith(f"{parent}." if parent else ""):
            return last
        return f"model.{module.removeprefix(self.prefix)}" if module.startswith(self.prefix) else None

    def named(self, text_name: str) -> str | None:
        """Return the path of the carried module that has this name in a text-only model, or None."""
        modules = dict.fromkeys(tensor.module for tensor in self.tensors.values())
        return next((module for module in modules if self.text_name(module) == text_name), None)

    def row_ids(self, module: str) -> tuple[int, ...] | None:
        """Return the tokens whose rows of this module were trained; None if there are none."""
        own = self.own_row_ids(module)
        if own is None and self.text_name(module) == HEAD:  # of a tied model, whose head follows its embedding
            return self.own_row_ids(f"{self.prefix}embed_tokens")
        return own

    def own_row_ids(self, module: str) -> tuple[int, ...] | None:
        """Return the tokens that the config names for this module itself; None if there are none."""
        rows = self.extras.rows
        if self.text_name(module) == EMBEDDING and "" in rows:
            return rows[""]
        return next((ids for end, ids in rows.items() if end and module.endswith(end)), None)

    def shape(self, tensor: CarriedTensor) -> tuple[int, ...]:
        """Return the shape of a tensor."""
        return self._file.shape(tensor.key)

    def dtype(self, tensor: CarriedTensor) -> np.dtype:
        """Return the type of a tensor."""
        return self._file.numpy_dtype(tensor.key)

    def size(self, tensor: CarriedTensor) -> int:
        """Return the bytes of a tensor."""
        return math.prod(self.shape(tensor)) * self.dtype(tensor).itemsize

    def layout(self) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
        """Return ``{name: (dtype, shape)}`` for writing."""
        return {name: (self.dtype(tensor), self.shape(tensor)) for name, tensor in self.tensors.items()}

    def read(self, tensor: CarriedTensor) -> np.ndarray:
        """Read a tensor.

        Raises:
          InputError: its file can no longer be read to its end.
        """
        return self._file.read(tensor.key)

    def blocks(self, name: str) -> Iterator[memoryview]:
        """Yield the bytes of a tensor, a few megabytes at a time."""
        return self._file.blocks(self.tensors[name].key)

    @property
    def where(self) -> str:
        """The file, for messages."""
        return str(self._file.path)

    def describe(self, most: int = 20) -> dict[str, Any]:
        """Return the entry of a record about them: their number, their bytes, and the first by name."""
        listed = list(self.tensors.values())[:most]
        return {
            "count": len(self.tensors),
            "bytes": sum(map(self.size, self.tensors.values())),
            "tensors": [
                {
                    "name": tensor.name,
                    "dtype": self.dtype(tensor).name,
                    "shape": list(self.shape(tensor)),
                    "bytes": self.size(tensor),
                }
                for tensor in listed
            ],
        }


def find_carried(file: SafetensorsFile, found: StackedKeys, extras: Extras) -> Carried:
    """Sort the tensors that are not factors of the decoder's layers.

    Args:
      file: the open file.
      found: its tensors; the factors are already sorted out.
      extras: what the config says.

    Raises:
      InputError: a tensor that cannot be carried, belongs to another adapter, or appears twice.
    """
    tensors: dict[str, CarriedTensor] = {}
    for key in found.others:
        tensor = _sort(file, key, found.adapter)
        if tensor.name in tensors:
            raise InputError(
                f"{file.path}: {tensors[tensor.name].key!r} and {key!r} are the same tensor of two adapters"
            )
        tensors[tensor.name] = tensor
    return Carried(file, list(tensors.values()), found.stack, extras)


def others_of(carried: Carried) -> Others:
    """Return the modules that have factors here, and those that follow another module in a tied model."""
    head = carried.named(HEAD)
    tied = carried.extras.tying and carried.of(f"{carried.prefix}embed_tokens", "embedding")
    return Others(carried.factored(), (head,) if tied and head else ())


def _sort(file: SafetensorsFile, key: str, adapter: str | None) -> CarriedTensor:
    path = plain_path(key)
    for part, reason in _REFUSED:
        if part in path:
            raise InputError(
                f"{file.path}: tensor {key[:120]!r} is {reason}; it can neither be repaired nor carried: {PLAIN}"
            )
    kind, match = next(((kind, match) for kind, one in _PARTS if (match := one.fullmatch(path))), ("", None))
    known = match is not None and _PRINTABLE.fullmatch(key)
    if match is None or not known or (kind in ("copy", "under") and ".lora_" in f".{path}"):
        raise InputError(f"{file.path}: tensor {key[:120]!r} is unknown: PEFT saves no such tensor of a LoRA")
    groups = match.groupdict()
    if _HEADS.fullmatch(groups["module"]):
        raise InputError(
            f"{file.path}: tensor {key[:120]!r} is a weight of a trained head; only adapters of a model that "
            "writes text can be realigned"
        )
    if groups.get("adapter") not in (None, adapter):
        several = ", ".join(sorted(map(str, (adapter, groups["adapter"]))))
        raise InputError(
            f"{file.path}: tensors of several adapters or models ({several}); expected one, save each in a folder "
            "of its own"
        )
    name = WRAPPER + (path if groups.get("adapter") is None else _without_adapter(match))
    return CarriedTensor(key, name, groups["module"], kind, groups["which"], groups.get("inside") or "")


def _without_adapter(match: re.Match) -> str:
    """Return the text of a match without the adapter's name and the dot before it."""
    first, last = match.span("adapter")
    return match.string[: first - 1] + match.string[last:]
