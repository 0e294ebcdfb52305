"""The adapted modules and their names.

A module is a linear layer of a decoder layer. The seven projections of a Llama-family model have short names, as do
the few other modules of ``_OTHERS``; any other module is named by its full path inside the decoder layer, such as
``linear_attn.out_proj`` or ``mlp.experts.3.up_proj``. A name therefore determines where the module is.

Models that keep all experts of a layer in one parameter ``[E, d, k]`` have a module for each expert, named by the
parameter and the expert's number, such as ``mlp.experts.gate_up_proj.3``: a slice of the parameter.
"""

import re
from typing import NamedTuple

MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Names of the projections of a decoder layer, in module order (ties are broken by it)."""
FUSED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
"""Modules of models that fuse projections of one input, as Phi-3 does, and what they fuse."""
_OTHERS = {
    **dict(zip(FUSED, ("self_attn.", "mlp."), strict=True)),
    **dict.fromkeys(("fc1", "fc2", "att_proj", "attn_out", "ff_proj", "ff_out"), ""),  # in the layer itself
}
_PATHS = {name: f"{'self_attn' if name[0] in 'qkvo' else 'mlp'}.{name}" for name in MODULES}
_PATHS |= {name: f"{parent}{name}" for name, parent in _OTHERS.items()}
_NAMES = {path: name for name, path in _PATHS.items()}
_PATH = re.compile(r"[A-Za-z_]\w*(?:\.\w+)+", re.ASCII)
_SLICE = re.compile(r"(?P<parameter>(?:.+\.)?experts\.[A-Za-z_]\w*)\.(?P<expert>0|[1-9]\d{0,5})", re.ASCII)


def path_in_layer(module: str) -> str:
    """Return the path of a module inside its decoder layer.

    >>> path_in_layer("q_proj"), path_in_layer("mlp.experts.0.up_proj")
    ('self_attn.q_proj', 'mlp.experts.0.up_proj')
    """
    return _PATHS.get(module, module)


def name_in_layer(path: str) -> str:
    """Return the name of the module at ``path`` inside its decoder layer; see ``path_in_layer``."""
    return _NAMES.get(path, path)


def is_module_name(name: str) -> bool:
    """Return whether this is the name of a module.

    >>> [is_module_name(name) for name in ("up_proj", "mlp.fc1", "mlp.up_proj", "up")]
    [True, True, False, False]
    """
    return name in _PATHS or (bool(_PATH.fullmatch(name)) and name not in _NAMES)


class Slice(NamedTuple):
    """One expert of a parameter that holds all experts of a layer: path of the parameter, number of the expert."""

    parameter: str
    expert: int

    @property
    def name(self) -> str:
        """The module's name."""
        return f"{self.parameter}.{self.expert}"


def slice_of(name: str) -> Slice | None:
    """Return which slice a module or its path is; None for a linear layer of its own.

    >>> slice_of("mlp.experts.gate_up_proj.3"), slice_of("mlp.experts.3.up_proj")
    (Slice(parameter='mlp.experts.gate_up_proj', expert=3), None)
    """
    match = _SLICE.fullmatch(name)
    return Slice(match["parameter"], int(match["expert"])) if match else None


def kind_of(name: str) -> str:
    """Return a module's name with a star for the number of the expert.

    >>> kind_of("q_proj"), kind_of("mlp.experts.3.up_proj"), kind_of("mlp.experts.gate_up_proj.3")
    ('q_proj', 'mlp.experts.*.up_proj', 'mlp.experts.gate_up_proj.*')
    """
    found = slice_of(name)
    return f"{found.parameter}.*" if found else re.sub(r"(?<=\bexperts\.)\d+(?=\.)", "*", name)


def parameter_path(path: str) -> str:
    """Return the path of the parameter that a module's factors are of: of a slice, that of all experts."""
    found = slice_of(path)
    return found.parameter if found else path


def module_order(name: str) -> tuple[int, str]:
    """Return the sort key of a name: the projections in module order, then the others by name."""
    return (MODULES.index(name), "") if name in MODULES else (len(MODULES), name)


def is_attention(module: str) -> bool:
    """Return whether a module belongs to its layer's attention; the others count as its MLP."""
    parent, _, name = path_in_layer(module).rpartition(".")
    return "attn" in parent or "attention" in parent.lower() or name.startswith("att")
