"""Parse the names of LoRA factors in ``adapter_model.safetensors``, whatever wrapped the model.

PEFT loads ``base_model.model.`` + the module's path in the base + ``.lora_A.weight`` and nothing else: a name with
any further wrapper is passed over in silence. Trainers that wrap a model twice, or save it while it is compiled or
sharded, write such names all the same.
"""

import collections
import re
from collections.abc import Iterable
from typing import NamedTuple

from nlsr_jax.modules import name_in_layer

WRAPPER = "base_model.model."
"""The prefix that PEFT adds to the paths of the model that it wraps."""
WRAPPERS = (
    *("module", "_module", "_orig_mod", "_forward_module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"),
    "pretrained_model",
)
"""Parts of a path that name a wrapper of a model or a layer, which the plain base does not have."""
_LAYER_WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module")
"""Those of them that are never the name of a module of a model."""
_FACTOR = re.compile(r"(?P<path>[\w.]+)\.lora_(?P<factor>[AB])(?:\.(?P<adapter>[^.\x00-\x1f\x7f]+))?\.weight")
_LAYER = re.compile(r"0|[1-9][0-9]{0,5}")
_OTHER_PARTS = re.compile(
    r"(?i)vision|visual|vit\b|image|video|audio|speech|tower|projector|connector|resampler|aligner|mtp|draft|eagle"
    r"|talker|code2wav|token2wav"
)

_CROSS = re.compile(r"(?:^|\.)(?:encoder_attn|EncDecAttention|crossattention|cross_attention)\.")
_DENOISER = re.compile(r"(?:^|\.)to_(?:q|k|v|out)(?:\.|$)")
_ENCODER = re.compile(r"(?<!transformer\.)\bencoder\.$")
"""Lists of encoder layers; ``transformer.encoder.layers`` is the decoder of ChatGLM."""


class Stack(NamedTuple):
    """A list of layers of the base: ``prefix`` before its name, such as ``"model."``, and its ``name``."""

    prefix: str
    name: str


class FactorKey(NamedTuple):
    """A parsed name of a factor.

    Attributes:
      stack: the list that the layer is in, as the plain base names it.
      layer, module, factor: which one; ``factor`` is ``"a"`` or ``"b"``.
      adapter: the adapter's name where it was left inside, else None.
      nested: how often PEFT's wrapper stands in the name.
      wrappers: other wrappers in it.
    """

    stack: Stack
    layer: int
    module: str
    factor: str
    adapter: str | None
    nested: int
    wrappers: tuple[str, ...]


def parse_key(name: str) -> FactorKey | None:
    """Parse the name of a tensor; None if it is not a factor of a module of a numbered layer.

    >>> parse_key("base_model.model.model.layers.3.mlp.up_proj.lora_A.weight")[:4]
    (Stack(prefix='model.', name='layers'), 3, 'up_proj', 'a')
    """
    match = _FACTOR.fullmatch(name)
    if not match:
        return None
    parts = match["path"].split(".")
    wrappers = tuple(part for part in parts if part in WRAPPERS)
    parts = [part for part in parts if part not in WRAPPERS]
    place = next((i for i, part in enumerate(parts) if i and part.isdecimal()), 0)
    if not place or place == len(parts) - 1 or not _LAYER.fullmatch(parts[place]):
        return None
    before, nested = _without_peft(parts[: place - 1])
    stack = Stack("".join(f"{part}." for part in before), parts[place - 1])
    module, factor = name_in_layer(".".join(parts[place + 1 :])), match["factor"].lower()
    return FactorKey(stack, int(parts[place]), module, factor, match["adapter"], nested, wrappers)


def _without_peft(parts: list[str]) -> tuple[list[str], int]:
    """Return the parts without each ``base_model.model``, and how many there were."""
    kept: list[str] = []
    nested = 0
    for part in parts:
        kept.append(part)
        if kept[-2:] == ["base_model", "model"]:
            del kept[-2:]
            nested += 1
    return kept, nested


def plain_path(name: str) -> str:
    """Return the name of any tensor in the plain base, without the wrappers around it.

    >>> plain_path("base_model.model.base_model.model._orig_mod.lm_head.lora_A.weight")
    'lm_head.lora_A.weight'
    """
    parts, _ = _without_peft([part for part in name.split(".") if part not in _LAYER_WRAPPERS])
    while len(parts) > 1 and parts[0] in WRAPPERS:
        parts, _ = _without_peft(parts[1:])
    return ".".join(parts)


def text_stack(stacks: Iterable[Stack]) -> list[Stack]:
    """Return the lists of layers that may be the language model's; one if the names tell.

    Args:
      stacks: all that a file has factors of.
    """
    found = sorted(set(stacks))
    text = [stack for stack in found if not _OTHER_PARTS.search(f"{stack.prefix}{stack.name}")]
    decoders = [stack for stack in text if "encoder." not in stack.prefix]
    return decoders or text


def other_kind(stack: Stack, keys: Iterable[FactorKey]) -> str | None:
    """Return what model a list of layers is of where its names say that it is no decoder-only language model.

    Args:
      stack: the list.
      keys: all factors of the file.

    >>> key = parse_key("base_model.model.model.decoder.layers.0.encoder_attn.q_proj.lora_A.weight")
    >>> other_kind(key.stack, [key])
    'an encoder-decoder model (encoder_attn.q_proj attends to an encoder)'
    """
    found = list(keys)
    own = sorted({key.module for key in found if key.stack == stack})
    cross = next((module for module in own if _CROSS.search(module)), None)
    if cross:
        return f"an encoder-decoder model ({cross} attends to an encoder)"
    encoder = stack._replace(prefix=re.sub(r"decoder\.$", "encoder.", stack.prefix))
    if encoder != stack and any(key.stack == encoder for key in found):
        return f"an encoder-decoder model (it has {encoder.prefix}{encoder.name} beside {stack.prefix}{stack.name})"
    if any(_DENOISER.search(module) for module in own):
        return f"a model that makes images or sound ({stack.prefix}{stack.name} has {own[0]})"
    if _ENCODER.search(stack.prefix):
        return f"an encoder ({stack.prefix}{stack.name})"
    return None


def notes_of_keys(keys: Iterable[FactorKey]) -> list[str]:
    """Return one line on names that PEFT would not find; None if all are plain."""
    found = list(keys)
    odd: dict[str, None] = {}
    for key in found:
        if key.nested > 1:
            odd[f"{WRAPPER} stands in them {key.nested} times"] = None
        elif not key.nested:
            odd[f"{WRAPPER} is missing"] = None
        odd |= dict.fromkeys(f"{name} is left in them" for name in key.wrappers)
    adapters = collections.Counter(key.adapter for key in found if key.adapter)
    odd |= dict.fromkeys(f"the adapter's name {name[:60]} is left in them" for name in adapters)
    if not odd:
        return []
    return [
        f"the names of the tensors are not those that PEFT looks for ({'; '.join(odd)}): PEFT would load nothing; "
        "they are read, and written with the plain names"
    ]
