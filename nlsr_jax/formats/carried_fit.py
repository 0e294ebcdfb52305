"""Whether the carried tensors of an adapter fit the model: what PEFT would load into it besides the factors.

Axis legend: L layers, D embed, V vocabulary, r rank, n rows.
"""

from nlsr_jax.architecture.config import ModelConfig
from nlsr_jax.errors import InputError
from nlsr_jax.formats import hugging_face  # whole, because it imports this package in turn
from nlsr_jax.formats.carried_ends import plan_ends
from nlsr_jax.formats.peft_carried import EMBEDDING, HEAD, Carried, CarriedTensor
from nlsr_jax.formats.peft_carried_checks import summary


def left_out(carried: Carried, config: ModelConfig) -> list[CarriedTensor]:
    """Return the carried tensors for which a model of this config has no place."""
    known = _places(config)

    def fits(tensor: CarriedTensor) -> bool:
        name = carried.text_name(tensor.module)
        if name in ENDS.values():
            weight = tensor.kind not in ("copy", "under") or tensor.which == "weight"
            return weight and (
                tensor.kind != "rows" or config.tied or carried.own_row_ids(tensor.module) is not None
            )
        return tensor.kind in ("copy", "under") and f"{name}.{tensor.which}" in known

    return [tensor for tensor in carried.tensors.values() if not fits(tensor)]


def note_left_out(carried: Carried, config: ModelConfig, where: str) -> list[str]:
    """Return a note on tensors of an adapter's file that the forward pass does not use; empty if it uses all."""
    tensors = left_out(carried, config)
    if not tensors:
        return []
    return [
        f"{where}: the forward pass leaves out {summary(carried, tensors)}, for which the base model has no place; "
        "measurements with it do not include them"
    ]


def _places(config: ModelConfig) -> dict[str, tuple[tuple[str, ...], int | None, tuple[int, ...]]]:
    """Return where a weight of this name lies in the parameter tree: its path, its layer and its shape."""
    found: dict[str, tuple[tuple[str, ...], int | None, tuple[int, ...]]] = {}
    for weight in hugging_face.weight_table(config):
        stacked = weight.path[0] == "layers"
        shape = weight.shape[1:] if stacked else weight.shape
        found |= {name: (weight.path, i if stacked else None, shape) for i, name in enumerate(weight.names)}
    return found


def check_carried_fits(carried: Carried, config: ModelConfig) -> None:
    """Check the shapes of all carried tensors that a model uses, before reading any.

    Raises:
      InputError: naming the first tensor that does not fit.
    """
    vocabulary(carried, config)
    places, ignored = _places(config), left_out(carried, config)
    for tensor in carried.tensors.values():
        if tensor in ignored:
            continue
        name, shape = carried.text_name(tensor.module), carried.shape(tensor)
        if name in ENDS.values():
            wide = {("embedding", "A"): None, ("factor", "B"): None, ("embedding", "B"): 0}
            axis = wide.get((tensor.kind, tensor.which), 1)
            expected = (
                f"a matrix of {config.hidden_size} columns" if axis else f"a matrix of width {config.hidden_size}"
            )
            fits = len(shape) == 2 and (axis is None or shape[axis] == config.hidden_size)
        else:
            expected = str(list(places[f"{name}.{tensor.which}"][2]))
            fits = shape == places[f"{name}.{tensor.which}"][2]
        if not fits:
            raise InputError(
                f"{carried.where}: {tensor.key!r} is {list(shape)}; expected {expected}, the adapter belongs to "
                "another base"
            )


ENDS = {"embed": EMBEDDING, "lm_head": HEAD}
"""The names of the ends in the parameter tree, and in files."""


def vocabulary(carried: Carried, config: ModelConfig) -> int:
    """Return how many rows embedding and output head have with the carried tensors.

    Raises:
      InputError: the carried tensors do not agree, or rows are missing that the base does not have.
    """
    plan = plan_ends(carried, config.tied)
    sizes: dict[str, int] = {}
    for end in (plan.embed, plan.lm_head):
        sized = (one for one in (end.base, end.copy, end.a, end.b) if one is not None)
        for one in sized:
            if (one.kind, one.which) not in (("embedding", "B"), ("factor", "A")):
                sizes[one.key] = carried.shape(one)[1 if one.kind == "embedding" else 0]
    if len(set(sizes.values())) > 1:
        found = ", ".join(f"{key!r} has {size}" for key, size in sizes.items())
        raise InputError(f"{carried.where}: tensors of different vocabularies: {found} rows; expected one number")
    size = next(iter(sizes.values()), config.vocab_size)
    written = config.tied and (plan.embed.base or plan.lm_head.base)
    used = {"embedding": plan.embed}
    if plan.parted or not config.tied:
        used["output head"] = plan.lm_head
    for name, end in used.items():
        if size > config.vocab_size and not (written or end.base or end.copy):
            raise InputError(
                f"{carried.where}: its vocabulary has {size} tokens, the base's {config.vocab_size}, and the file "
                f"does not hold the {name} of the others; give the base as it was resized for training"
            )
    return size
