"""How the carried tensors of an adapter change the two ends of a model, embedding and output head.

Axis legend: D embed, V vocabulary, r rank, n rows.
Source: the order of PEFT's wrappers: weights of the base, rows of tokens, then copies or factors.
"""

from typing import NamedTuple

from nlsr_jax.formats.peft_carried import EMBEDDING, HEAD, Carried, CarriedTensor


class Weights(NamedTuple):
    """The carried tensors of one end; None for those that the file lacks.

    Attributes:
      module: its path.
      base: a weight of the base below everything else.
      copy: the weight of a module that was trained whole.
      a, b: its factors.
      rows: the rows of its tokens.
    """

    module: str = ""
    base: CarriedTensor | None = None
    copy: CarriedTensor | None = None
    a: CarriedTensor | None = None
    b: CarriedTensor | None = None
    rows: CarriedTensor | None = None


class Plan(NamedTuple):
    """How the ends change.

    Attributes:
      embed, lm_head: what is carried of each.
      tied: whether the base has one matrix for both.
      parted: whether the head of a tied base gets a matrix of its own.
    """

    embed: Weights
    lm_head: Weights
    tied: bool
    parted: bool


def plan_ends(carried: Carried, tied: bool) -> Plan:
    """Sort the carried tensors of both ends.

    Args:
      carried: from an adapter's file.
      tied: whether the base has one matrix for both ends.
    """
    embed, head = _weights(carried, EMBEDDING), _weights(carried, HEAD)
    if not tied:
        own = head.rows is not None and carried.own_row_ids(head.module) is not None
        return Plan(embed, head if own else head._replace(rows=None), False, False)
    if carried.extras.tying and (embed.copy or embed.a):  # the head's are the embedding's once more
        return Plan(embed, Weights(head.module), True, False)
    same = head.rows is None or carried.row_ids(head.module) == carried.row_ids(embed.module)
    if embed.rows is not None and (carried.extras.tying or same):
        head = head._replace(rows=None)
    apart = (embed.copy, head.copy, embed.a, head.a, head.rows)
    return Plan(embed, head, True, any(one is not None for one in apart))


def _weights(carried: Carried, name: str) -> Weights:
    module = carried.named(name)
    if module is None:
        return Weights()
    found = carried.of(module, "copy", "under", "factor", "embedding", "rows")
    factors = {one.which: one for one in found if one.kind in ("factor", "embedding")}
    plain = next((one for one in found if (one.kind, one.inside, one.which) == ("copy", "", "weight")), None)
    under = next((one for one in found if (one.kind, one.which) == ("under", "weight")), None)
    saved = carried.extras.saves(module)
    return Weights(
        module,
        under or (None if saved else plain),
        plain if saved else None,
        factors.get("A"),
        factors.get("B"),
        next((one for one in found if (one.kind, one.which) == ("rows", "delta")), None),
    )
