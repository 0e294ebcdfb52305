"""Checks of carried tensors against the config with which PEFT loads them, and notes on them for the user."""

import re
from collections.abc import Iterable

from nlsr_jax.errors import InputError
from nlsr_jax.formats.peft_carried import EMBEDDING, HEAD, Carried, CarriedTensor
from nlsr_jax.formats.peft_targets import InFile, module_path

_NUMBER = re.compile(r"\.\d+\.")
_ADVICE = "the config belongs to another adapter"


def check_carried(carried: Carried, targets: InFile) -> None:
    """Check that PEFT would load every carried tensor with this config and would miss none.

    Args:
      carried: of a file.
      targets: what the config adapts.

    Raises:
      InputError: naming the first tensor or module that does not fit.
    """
    decoder = {
        module_path(layer, module, carried.stack) for module, layers in targets.modules.items() for layer in layers
    }
    for module in dict.fromkeys(tensor.module for tensor in carried.tensors.values()):
        _check_factors(carried, module, targets)
        _check_rows(carried, module)
        adapted = module in decoder or module in targets.carried
        for tensor in carried.of(module, "copy", "under"):
            _check_weight(carried, tensor, adapted)
    _check_missing(carried)


def _check_factors(carried: Carried, module: str, targets: InFile) -> None:
    found = {tensor.which: carried.shape(tensor) for tensor in carried.of(module, "factor", "embedding")}
    if not found:
        return
    if module not in targets.carried:
        raise InputError(f"{carried.where}: holds factors of {module}, which the config does not adapt; {_ADVICE}")
    if carried.extras.saves(module):
        raise InputError(
            f"{carried.where}: {module} has factors and is in modules_to_save; PEFT cannot load it as both"
        )
    kinds = {tensor.kind for tensor in carried.of(module, "factor", "embedding")}
    if len(found) < 2 or len(kinds) > 1:
        raise InputError(f"{carried.where}: {module} has only one of its two factors; the file is incomplete")
    a, b, rank = found["A"], found["B"], targets.carried[module].rank
    if len(a) < 2 or len(b) < 2 or a[0] != b[1] or 0 in a + b:
        raise InputError(
            f"{carried.where}: {module} has A {list(a)} and B {list(b)}; expected [r, …] and [d, r] with one r"
        )
    if a[0] != rank:
        raise InputError(
            f"{carried.where}: {module} has rank {a[0]}, the config says {rank}; correct r or rank_pattern, or "
            "take the config that was saved with these weights"
        )


def _check_rows(carried: Carried, module: str) -> None:
    for tensor in carried.of(module, "rows"):
        ids, shape = carried.row_ids(module), carried.shape(tensor)
        if ids is None:
            raise InputError(
                f"{carried.where}: holds trained rows of {module}, which trainable_token_indices does not name; "
                f"{_ADVICE}"
            )
        if len(shape) != 2 or shape[0] != len(ids):
            raise InputError(
                f"{carried.where}: {tensor.key!r} is {list(shape)}; trainable_token_indices names {len(ids)} "
                f"tokens of {module}"
            )


def _check_weight(carried: Carried, tensor: CarriedTensor, adapted: bool) -> None:
    """Refuse a weight that PEFT would not load; that depends on how it wraps the module."""
    module, saved = tensor.module, carried.extras.saves(tensor.module)
    rows = carried.row_ids(module) is not None and bool(carried.of(module, "rows"))
    wrapped = {
        "": saved or not (adapted or rows),
        "modules_to_save": saved,
        "original_module": saved,
        "base_layer": adapted,
        "token_adapter.base_layer": rows,
    }
    if not wrapped[tensor.inside]:
        raise InputError(
            f"{carried.where}: PEFT would not load {tensor.key!r} with this config: {module} is "
            f"{'adapted' if adapted else 'trained by rows' if rows else 'not adapted'}; {_ADVICE}"
        )


def _check_missing(carried: Carried) -> None:
    """Refuse a file that lacks tensors that the config names, of modules that every such model has."""
    every = [f"{carried.prefix}embed_tokens", f"{carried.prefix}norm"]
    if f".{carried.prefix}".endswith(".model."):
        every.append(f"{carried.prefix.removesuffix('model.')}lm_head")
    for module in every:
        weights = [tensor for tensor in carried.of(module, "copy") if not tensor.inside]
        if carried.extras.saves(module) and not weights:
            raise InputError(
                f"{carried.where}: modules_to_save names {module}, of which the file holds no weight; the file is "
                f"incomplete or {_ADVICE}"
            )
    embedding = carried.of(f"{carried.prefix}embed_tokens", "rows")
    if carried.extras.rows and not embedding and not carried.of(carried.named(HEAD) or "", "rows"):
        raise InputError(
            f"{carried.where}: trainable_token_indices names tokens, the file holds no rows of them; the file is "
            f"incomplete or {_ADVICE}"
        )


def note_of(carried: Carried, where: str, *, written: bool = True) -> str:
    """Return a note for the user on carried tensors.

    Args:
      carried: of a file.
      where: the adapter's folder.
      written: whether the written adapter receives them.
    """
    total = sum(map(carried.size, carried.tensors.values()))
    return (
        f"{where}: holds {summary(carried)} beside the factors of the decoder's projections ({_count(carried)}, "
        f"{_bytes(total)}); "
        + (
            "these are carried unchanged, neither compared nor repaired, so that what they have learned stays"
            if written
            else "these are neither compared nor written: only those of the fine-tuned adapter are carried"
        )
    )


def summary(carried: Carried, tensors: Iterable[CarriedTensor] | None = None, most: int = 6) -> str:
    """Name the modules of carried tensors and what is carried of each."""
    found: dict[str, dict[str, None]] = {}
    modules: dict[str, set[str]] = {}
    for tensor in carried.tensors.values() if tensors is None else tensors:
        alike = _NUMBER.sub(".*.", tensor.module)
        found.setdefault(alike, {})[_word(tensor, carried)] = None
        modules.setdefault(alike, set()).add(tensor.module)
    order = sorted(found, key=lambda alike: (carried.text_name(alike) not in (EMBEDDING, HEAD), alike))

    def name(alike: str) -> str:
        several = modules[alike]
        return next(iter(several)) if len(several) == 1 else f"{len(several)} × {alike}"

    parts = [f"{name(alike)} ({', '.join(found[alike])})" for alike in order[:most]]
    left = sum(len(modules[alike]) for alike in order[most:])
    return ", ".join(parts) + (f" and {left} more {'module' if left == 1 else 'modules'}" if left else "")


def _count(carried: Carried) -> str:
    return "1 tensor" if len(carried.tensors) == 1 else f"{len(carried.tensors)} tensors"


def _word(tensor: CarriedTensor, carried: Carried) -> str:
    if tensor.kind in ("factor", "embedding"):
        return "factors"
    if tensor.kind == "rows":
        ids = carried.row_ids(tensor.module) or ()
        return f"{len(ids)} trained {'row' if len(ids) == 1 else 'rows'}"
    return (
        {"weight": "whole", "bias": "bias"}.get(tensor.which, tensor.which)
        if tensor.kind == "copy"
        else ("base weight" if tensor.which == "weight" else tensor.which)
    )


def _bytes(count: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count} bytes"
