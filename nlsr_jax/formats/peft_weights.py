"""The tensors of ``adapter_model.safetensors``: every key accounted for, factors stacked over layers."""

import re
from typing import NamedTuple

import numpy as np

from nlsr_jax.adapter import module_names
from nlsr_jax.errors import InputError
from nlsr_jax.formats.limits import LIMITS
from nlsr_jax.formats.numbers import count_not_finite
from nlsr_jax.formats.safetensors_files import SafetensorsFile, empty_aligned
from nlsr_jax.modules import MODULES

MAX_TENSORS = LIMITS.tensors
MAX_LAYERS = LIMITS.layers
_KEY = re.compile(
    r"(?P<prefix>(?:(?:base_model|model|language_model)\.){0,8})layers\.(?P<layer>0|[1-9][0-9]{0,5})\."
    r"(?:self_attn|mlp)\.(?P<module>[a-z]+_proj)\.lora_(?P<factor>[AB])(?:\.(?P<adapter>[^.]+))?\.weight"
)
_PARENT = {module: "self_attn" if module[0] in "qkvo" else "mlp" for module in MODULES}
_KINDS = {
    "lora_magnitude_vector": "a DoRA magnitude",
    "lora_embedding": "a factor of an embedding",
    "modules_to_save": "a weight of a fully trained module",
    "base_layer": "a weight of the base model",
    "bias": "a bias",
    "lora_": "a factor of something else",
    "layers.": "a weight of the base model",
    "lm_head": "a weight of a fully trained module",
    "embed_tokens": "a weight of a fully trained module",
}


class StackedKeys(NamedTuple):
    """Where the factors of a file are.

    Attributes:
      prefix: what stands before ``layers`` in every key.
      keys: ``{module: {layer: {"a": key, "b": key}}}``, modules in module order, layers rising.
    """

    prefix: str
    keys: dict[str, dict[int, dict[str, str]]]


def find_factors(file: SafetensorsFile) -> StackedKeys:
    """Sort the tensors of a PEFT file into factors.

    Raises:
      InputError: a tensor that is no LoRA factor of a projection, two adapters in one file, a factor without
        its partner, or no factors.
    """
    where, names = file.path, file.names()
    if len(names) > MAX_TENSORS:
        raise InputError(f"{where}: {len(names)} tensors; expected at most {MAX_TENSORS}")
    keys: dict[str, dict[int, dict[str, str]]] = {}
    prefixes, adapters = set(), set()
    for name in names:
        match = _KEY.fullmatch(name)
        if not match or match["module"] not in MODULES or f".{_PARENT[match['module']]}." not in f".{name}":
            raise InputError(
                f"{where}: tensor {name[:120]!r} is {_kind(name)}, no LoRA factor of a projection "
                f"({', '.join(MODULES)}); train plain LoRA on those alone"
            )
        if int(match["layer"]) >= MAX_LAYERS:
            raise InputError(f"{where}: tensor {name!r} is of layer {match['layer']}; expected below {MAX_LAYERS}")
        prefixes.add(match["prefix"])
        adapters.add(match["adapter"])
        pair = keys.setdefault(match["module"], {}).setdefault(int(match["layer"]), {})
        factor = match["factor"].lower()
        if factor in pair:
            raise InputError(f"{where}: {pair[factor]!r} and {name!r} are the same factor of two adapters")
        pair[factor] = name
    if not keys:
        raise InputError(f"{where}: holds no LoRA factors")
    if len(adapters) > 1 or len(prefixes) > 1:
        several = sorted(map(str, adapters if len(adapters) > 1 else prefixes))
        raise InputError(
            f"{where}: tensors of several adapters or models ({', '.join(several)}); expected one, save each in a "
            "folder of its own"
        )
    for module, layers in keys.items():
        for layer, pair in layers.items():
            if len(pair) < 2:
                other = "lora_B" if "a" in pair else "lora_A"
                raise InputError(
                    f"{where}: layer {layer} {module} has {next(iter(pair.values()))!r} alone; {other} is missing"
                )
    ordered = {module: dict(sorted(keys[module].items())) for module in module_names(keys)}
    return StackedKeys(prefixes.pop(), ordered)


def _kind(name: str) -> str:
    return next((kind for part, kind in _KINDS.items() if part in name), "unknown")


def stacked_shapes(file: SafetensorsFile, found: StackedKeys) -> dict[str, dict[str, tuple[int, ...]]]:
    """Return ``{module: {"a": (L, r, k), "b": (L, d, r)}}`` after checking that all layers agree.

    Raises:
      InputError: a factor that is no matrix, or layers of one module with different shapes.
    """
    shapes: dict[str, dict[str, tuple[int, ...]]] = {}
    for module, layers in found.keys.items():
        first = next(iter(layers))
        shapes[module] = {}
        for factor in ("a", "b"):
            expected = file.shape(layers[first][factor])
            for layer, pair in layers.items():
                shape = file.shape(pair[factor])
                if len(shape) != 2 or 0 in shape:
                    raise InputError(f"{file.path}: {pair[factor]!r} has shape {list(shape)}; expected a matrix")
                if shape != expected:
                    raise InputError(
                        f"{file.path}: {module} lora_{factor.upper()} is {list(expected)} in layer {first} and "
                        f"{list(shape)} in layer {layer}; stacked factors need one rank and shape per module name"
                    )
            shapes[module][factor] = (len(layers), *expected)
        if shapes[module]["a"][1] != shapes[module]["b"][2]:
            raise InputError(
                f"{file.path}: {module} has lora_A of rank {shapes[module]['a'][1]} and lora_B of rank "
                f"{shapes[module]['b'][2]}; expected [r, k] and [d, r] with one r"
            )
    return shapes


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
    file: SafetensorsFile, layers: dict[int, dict[str, str]], factor: str, rows: slice = slice(None)
) -> np.ndarray:
    """Read one factor of one module name, ``rows`` of its leading axis, into one array.

    Raises:
      InputError: an entry that is not finite, or a file that ends too early.
    """
    chosen = list(layers)[rows]
    dtype = stacked_dtype(file, layers, factor)
    first = file.shape(layers[next(iter(layers))][factor])
    stack = empty_aligned((len(chosen), *first), dtype)
    for i, layer in enumerate(chosen):
        name = layers[layer][factor]
        if file.numpy_dtype(name) == dtype:
            file.read(name, stack[i])
        else:
            stack[i] = file.read(name)
        bad = count_not_finite(stack[i])
        if bad:
            raise InputError(f"{file.path}: {name!r} holds {bad} entries that are NaN or infinite")
    return stack
