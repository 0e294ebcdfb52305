"""The tensors of ``adapter_model.safetensors``: every key is accounted for, factors are stacked over layers."""

from typing import NamedTuple

import numpy as np

from nlsr_jax.adapter import module_names
from nlsr_jax.errors import InputError
from nlsr_jax.files.limits import LIMITS
from nlsr_jax.files.numbers import count_not_finite
from nlsr_jax.files.safetensors_files import SafetensorsFile, empty_aligned
from nlsr_jax.formats.peft_fields import PLAIN
from nlsr_jax.formats.peft_keys import FactorKey, Stack, notes_of_keys, other_kind, parse_key, text_stack
from nlsr_jax.modules import is_module_name

MAX_TENSORS = LIMITS.tensors
MAX_LAYERS = LIMITS.layers
_KINDS = {
    "lora_magnitude_vector": "a DoRA magnitude",
    "lora_embedding": "a factor of an embedding",
    "modules_to_save": "a weight of a fully trained module",
    "base_layer": "a weight of the base model",
    "bias": "a bias",
    "lora_": "a factor of something else",
    "score.": "a weight of a trained head",
    "classifier.": "a weight of a trained head",
    "layers.": "a weight of the base model",
    "lm_head": "a weight of a fully trained module",
    "embed_tokens": "a weight of a fully trained module",
}


class StackedKeys(NamedTuple):
    """Where the factors of a file are.

    Attributes:
      stack: the list of layers that they are of, as the plain base names it.
      keys: ``{module: {layer: {"a": key, "b": key}}}``, modules in module order, layers rising.
      transposed: whether the file holds ``[k, r]`` and ``[r, d]``.
      nested: how often PEFT's wrapper stands in the names beyond the one that it looks for.
      notes: what a user should know about the names.
      others: all other tensors.
      adapter: the adapter's name, if it is left inside the names; else None.
    """

    stack: Stack
    keys: dict[str, dict[int, dict[str, str]]]
    transposed: bool = False
    nested: int = 0
    notes: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    adapter: str | None = None


def find_factors(file: SafetensorsFile) -> StackedKeys:
    """Sort the tensors of a PEFT file into factors.

    Raises:
      InputError: two adapters in one file, or no factors.
    """
    where, names = file.path, file.names()
    if len(names) > MAX_TENSORS:
        raise InputError(f"{where}: {len(names)} tensors; expected at most {MAX_TENSORS}")
    parsed = {name: parse_key(name) for name in names}
    found = {name: key for name, key in parsed.items() if key and is_module_name(key.module)}
    if names and not found:
        check_no_others(file, names)
    stack = _one_stack(found, where)
    found = {name: key for name, key in found.items() if key.stack == stack}
    keys = _sorted(found, where)
    adapters = sorted({str(key.adapter) for key in found.values()})
    if len(adapters) > 1:
        raise _several(where, adapters)
    others = tuple(name for name in names if name not in found)
    nested = max(max(key.nested for key in found.values()) - 1, 0)
    adapter = next(iter(found.values())).adapter
    return StackedKeys(stack, keys, False, nested, tuple(notes_of_keys(found.values())), others, adapter)


def check_no_others(file: SafetensorsFile, others: tuple[str, ...]) -> None:
    """Refuse tensors that are not LoRA factors of decoder layers.

    Raises:
      InputError: naming the first.
    """
    for name in others:
        raise InputError(
            f"{file.path}: tensor {name[:120]!r} is {_kind(name)}, not a LoRA factor of a linear layer of a "
            f"decoder layer; {PLAIN}"
        )


def _one_stack(found: dict[str, FactorKey], where) -> Stack:
    stacks = text_stack(key.stack for key in found.values())
    if not stacks:
        raise InputError(f"{where}: holds no LoRA factors of decoder layers of a language model")
    if len(stacks) > 1:
        raise _several(where, [f"{stack.prefix}{stack.name}" for stack in stacks])
    kind = other_kind(stacks[0], found.values())
    if kind:
        raise InputError(
            f"{where}: its factors are of {kind}; only adapters of decoder-only language models can be realigned"
        )
    return stacks[0]


def _several(where, names: list[str]) -> InputError:
    return InputError(
        f"{where}: tensors of several adapters or models ({', '.join(names)}); expected one, save each in a folder "
        "of its own"
    )


def _sorted(found: dict[str, FactorKey], where) -> dict[str, dict[int, dict[str, str]]]:
    """Return ``StackedKeys.keys``."""
    keys: dict[str, dict[int, dict[str, str]]] = {}
    for name, key in found.items():
        if key.layer >= MAX_LAYERS:
            raise InputError(f"{where}: tensor {name!r} is of layer {key.layer}; expected below {MAX_LAYERS}")
        pair = keys.setdefault(key.module, {}).setdefault(key.layer, {})
        if key.factor in pair:
            raise InputError(f"{where}: {pair[key.factor]!r} and {name!r} are the same factor of two adapters")
        pair[key.factor] = name
    return {module: dict(sorted(keys[module].items())) for module in module_names(keys)}


def check_pairs(file: SafetensorsFile, found: StackedKeys) -> None:
    """Check that every factor has its partner.

    Raises:
      InputError: naming the first that has none.
    """
    for module, layers in found.keys.items():
        for layer, pair in layers.items():
            if len(pair) < 2:
                other, alone = "lora_B" if "a" in pair else "lora_A", next(iter(pair.values()))
                raise InputError(f"{file.path}: layer {layer} {module} has only {alone!r}; {other} is missing")


def _kind(name: str) -> str:
    return next((kind for part, kind in _KINDS.items() if part in name), "unknown")


def stacked_shapes(file: SafetensorsFile, found: StackedKeys) -> dict[str, dict[str, tuple[int, ...]]]:
    """Return ``{module: {"a": (L, r, k), "b": (L, d, r)}}`` after checking that all layers agree.

    Layers of one module may differ in rank, as those of EVA do: r is the largest of them.

    Raises:
      InputError: a factor that is no matrix, or layers of one module of different sizes.
    """
    shapes: dict[str, dict[str, tuple[int, ...]]] = {}
    ranks = layer_ranks(file, found)
    for module, layers in found.keys.items():
        first, rank = next(iter(layers)), max(ranks[module].values())
        k, d = (
            _shape(file, layers[first][factor], found.transposed)[axis] for factor, axis in (("a", 1), ("b", 0))
        )
        for layer, pair in layers.items():
            for factor, size, axis in (("a", k, 1), ("b", d, 0)):
                shape = _shape(file, pair[factor], found.transposed)
                if shape[axis] != size:
                    raise InputError(
                        f"{file.path}: {module} lora_{factor.upper()} is of {size} features in layer {first} and "
                        f"of {shape[axis]} in layer {layer}; expected one size per module name"
                    )
        shapes[module] = {"a": (len(layers), rank, k), "b": (len(layers), d, rank)}
    return shapes


def layer_ranks(file: SafetensorsFile, found: StackedKeys) -> dict[str, dict[int, int]]:
    """Return the rank of every factor pair, ``{module: {layer: r}}``.

    Raises:
      InputError: a factor that is no matrix, or a pair of two ranks.
    """
    ranks: dict[str, dict[int, int]] = {}
    for module, layers in found.keys.items():
        ranks[module] = {}
        for layer, pair in layers.items():
            a, b = (_shape(file, pair[factor], found.transposed) for factor in ("a", "b"))
            for name, shape in ((pair["a"], a), (pair["b"], b)):
                if len(shape) != 2 or 0 in shape:
                    raise InputError(f"{file.path}: {name!r} has shape {list(shape)}; expected a matrix")
            if a[0] != b[1]:
                raise InputError(
                    f"{file.path}: layer {layer} {module} has lora_A of rank {a[0]} and lora_B of rank {b[1]}; "
                    "expected [r, k] and [d, r] with one r"
                )
            ranks[module][layer] = a[0]
    return ranks


def note_of_ranks(ranks: dict[str, dict[int, int]]) -> list[str]:
    """Return a note on modules whose layers differ in rank; none where there are none.

    Args:
      ranks: see ``layer_ranks``.
    """
    mixed = [module for module, layers in ranks.items() if len(set(layers.values())) > 1]
    if not mixed:
        return []
    found = sorted({rank for module in mixed for rank in ranks[module].values()})
    return [
        f"the layers of {', '.join(mixed[:8])} have ranks from {found[0]} to {found[-1]}: each module is read and "
        "written with its largest, filled up with zeros, which changes nothing"
    ]


def _shape(file: SafetensorsFile, name: str, transposed: bool) -> tuple[int, ...]:
    return file.shape(name)[::-1] if transposed else file.shape(name)


def stacked_dtype(file: SafetensorsFile, layers: dict[int, dict[str, str]], factor: str) -> np.dtype:
    """Return the type of a stack: the file's, or float32 where layers mix 16-bit types.

    Raises:
      InputError: a type that cannot be held exactly.
    """
    names = {file.dtype(pair[factor]): pair[factor] for pair in layers.values()}
    for dtype, name in names.items():
        if dtype not in ("F32", "F16", "BF16"):
            raise InputError(
                f"{file.path}: {name!r} has type {dtype}; expected float32, float16 or bfloat16; "
                "save it as one of them"
            )
    return file.numpy_dtype(next(iter(names.values()))) if len(names) == 1 else np.dtype(np.float32)


def read_stack(
    file: SafetensorsFile,
    layers: dict[int, dict[str, str]],
    factor: str,
    rows: slice = slice(None),
    transposed: bool = False,
) -> np.ndarray:
    """Read one factor of one module name, ``rows`` of its leading axis, into one array.

    Layers of a smaller rank than others are filled up with zeros.

    Args:
      file: the open file.
      layers: of the module, from ``StackedKeys.keys``.
      factor: ``"a"`` or ``"b"``.
      rows: which layers of them.
      transposed: whether the file holds the transposed factors.

    Raises:
      InputError: an entry that is not finite, or a file that ends too early.
    """
    chosen = list(layers)[rows]
    dtype = stacked_dtype(file, layers, factor)
    shapes = [_shape(file, pair[factor], transposed) for pair in layers.values()]
    full = tuple(max(sizes) for sizes in zip(*shapes, strict=True))
    stack = empty_aligned((len(chosen), *full), dtype)
    for i, layer in enumerate(chosen):
        name = layers[layer][factor]
        if file.numpy_dtype(name) == dtype and not transposed and file.shape(name) == full:
            file.read(name, stack[i])
        else:
            value = file.read(name).T if transposed else file.read(name)
            stack[i] = 0
            stack[i, : value.shape[0], : value.shape[1]] = value
        bad = count_not_finite(stack[i])
        if bad:
            raise InputError(f"{file.path}: {name!r} holds {bad} entries that are NaN or infinite")
    return stack
