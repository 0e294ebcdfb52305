"""Read and check the modules of a record, in module order, and summarise them."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from nlsr_jax.errors import InputError
from nlsr_jax.modules import MODULES, is_module_name, kind_of, module_order


class Module(NamedTuple):
    """One adapted projection of one decoder layer, as the record describes it.

    Attributes:
      layer, name: decoder layer and projection.
      similarity: S_j in [−1, 1].
      rank: from 1 for the least similar module to N; ties by module order.
      repaired: whether the module's entries were replaced.
      chance: probability of repair, 1 − P_j; None if the record does not give it.
      zero_norm: whether a masked product was zero, so that the similarity was set to 0.
      lineage: cosine of the fine-tuned and the aligned product (in older records, of the closer factors); None if
        the record does not give it.
      kept: safety-critical entries of both factors; None if the record does not give it.
      size: entries of both factors; None if the record does not give it.
      change: relative size of the change of the module's update; None if the record does not give it.
      taken: share of the safety direction that was taken; None if the record does not give it.
    """

    layer: int
    name: str
    similarity: float
    rank: int
    repaired: bool
    chance: float | None
    zero_norm: bool
    lineage: float | None
    kept: int | None
    size: int | None
    change: float | None = None
    taken: float | None = None

    @property
    def replaced(self) -> int | None:
        """Return the number of replaced entries."""
        return self.kept if self.repaired or self.kept is None else 0


def mapping(value: Any) -> Mapping:
    """Return ``value`` if it is a mapping, else an empty mapping for a missing part of the record."""
    return value if isinstance(value, Mapping) else {}


def number(value: Any, low: float = -1e15, high: float = 1e15) -> float | int | None:
    """Return ``value`` if it is a number from ``low`` to ``high``, else None."""
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return value if plain and low <= value <= high else None


def read_modules(record: Mapping) -> tuple[Module, ...]:
    """Read the modules of a realignment record.

    Args:
      record: the content of ``realignment.json``.

    Returns:
      One ``Module`` per entry, layer by layer, in module order.

    Raises:
      InputError: if there are no modules, or an entry lacks a required field.
    """
    entries = record.get("modules")
    if not isinstance(entries, Sequence) or isinstance(entries, str) or not entries:
        raise InputError("record: 'modules' is missing or empty; expected one entry per adapted module")
    found = [_read_entry(i, entry) for i, entry in enumerate(entries)]
    found.sort(key=lambda module: (module.layer, module_order(module.name)))
    for one, two in itertools.pairwise(found):
        if one[:2] == two[:2]:
            raise InputError(f"record: layer {one.layer} {one.name} is in 'modules' twice; expected once")
    order = sorted(range(len(found)), key=lambda i: found[i].similarity)
    ranks = {i: rank for rank, i in enumerate(order, 1)}
    return tuple(module._replace(rank=ranks[i]) for i, module in enumerate(found))


def _read_entry(index: int, entry: Any) -> Module:
    entry = mapping(entry)
    layer, name, similarity, pruned = (entry.get(k) for k in ("layer", "module", "similarity", "pruned"))
    where = f"record: modules[{index}]"
    if not isinstance(name, str) or not is_module_name(name):
        raise InputError(f"{where} has module {str(name)[:40]!r}; expected one of {', '.join(MODULES)}")
    if not isinstance(layer, int) or isinstance(layer, bool) or number(layer, 0) is None:
        raise InputError(f"{where} has layer {str(layer)[:40]!r}; expected a whole number of at least 0")
    if number(similarity, -1, 1) is None:
        raise InputError(f"{where} has similarity {str(similarity)[:40]!r}; expected a number from -1 to 1")
    if not isinstance(pruned, bool):
        raise InputError(f"{where} has pruned {str(pruned)[:40]!r}; expected true or false")
    probability = number(entry.get("probability"), 0, 1)
    return Module(
        layer=layer,
        name=name,
        similarity=float(similarity),
        rank=0,
        repaired=not pruned,
        chance=None if probability is None else 1.0 - probability,
        zero_norm=entry.get("zero_norm") is True,
        lineage=number(entry.get("lineage"), -1, 1),
        kept=_both(entry, "kept"),
        size=_both(entry, "size"),
        change=_change(entry),
        taken=number(entry.get("taken"), 0, 1.001),
    )


def _both(entry: Mapping, name: str) -> int | None:
    """Return the sum of the counts of both factors, or the count of a matrix."""
    if (whole := number(entry.get(name), 0)) is not None:
        return int(whole)
    a, b = (number(entry.get(f"{name}_{factor}"), 0) for factor in "ab")
    return None if a is None or b is None else int(a + b)


def summarise(modules: Sequence[Module]) -> dict[str, Any]:
    """Compute the page's statistics over all modules.

    Returns:
      Counts, the mean, lowest and highest similarity, the least similar module, the range of the
      chance of repair, the mean and largest change; None for anything that the record does not give.
    """
    values = [module.similarity for module in modules]
    repaired = [module for module in modules if module.repaired]
    chances = [m.chance for m in modules if m.chance is not None]
    lineages = [m.lineage for m in modules if m.lineage is not None]
    counted = all(m.kept is not None and m.size for m in modules)
    changes = [m.change for m in modules if m.change is not None]
    taken = [m.taken for m in modules if m.taken is not None]
    measured = len(changes) == len(modules)
    known = len(chances) == len(modules)
    return {
        "modules": len(modules),
        "layers": len({module.layer for module in modules}),
        "names": sorted({m.name for m in modules}, key=module_order),
        "experts": any(kind_of(m.name) != m.name for m in modules),
        "repaired": len(repaired),
        "left_alone": len(modules) - len(repaired),
        "mean_similarity": math.fsum(values) / len(values),
        "lowest": min(modules, key=lambda m: m.rank),
        "highest": max(modules, key=lambda m: m.rank),
        "repaired_mean": math.fsum(m.similarity for m in repaired) / len(repaired) if repaired else None,
        "chances": (min(chances), max(chances)) if known else None,
        "expected": math.fsum(chances) if known else None,
        "counted": counted,
        "kept_entries": sum(m.kept for m in modules) if counted else None,
        "changed_entries": sum(m.replaced for m in modules) if counted else None,
        "total_entries": sum(m.size for m in modules) if counted else None,
        "change": math.fsum(changes) / len(changes) if measured else None,
        "most_changed": max(modules, key=lambda m: m.change or 0.0) if measured else None,
        "taken": math.fsum(taken) / len(taken) if len(taken) == len(modules) else None,
        "empty": sum(m.repaired and m.replaced == 0 for m in modules),
        "zero_norm": sum(m.zero_norm for m in modules),
        "lineage": (min(lineages), math.fsum(lineages) / len(lineages)) if lineages else None,
    }


def _change(entry: Mapping[str, Any]) -> float | None:
    """Return the relative size of a module's change; of a matrix by the norms of its change and of its update."""
    change, update = number(entry.get("change_norm"), 0), number(entry.get("update_norm"), 0)
    if change is None or update is None:
        return number(entry.get("change"), 0)
    return change / update if update else 0.0


def read_refinement(record: Mapping) -> dict[str, Any] | None:
    """Return the refinement of a record whose rates are numbers; None without one.

    Returns:
      ``{"trials": [(share, harmful, harmless)], "kept": [(share, rate)], "finetuned", "aligned": (harmful,
      harmless), "share", "goal", "recovered", "held"}``, rates from 0 to 1, the trials by rising share. Where the
      run asked no prompts of the task, ``"kept"`` is empty.
    """
    told = mapping(record.get("refinement"))
    trials = told.get("trials")
    rates = {name: _rates(told.get(name)) for name in ("finetuned", "aligned")}
    if not isinstance(trials, list) or None in rates.values():
        return None
    points, kept = [], []
    for one in trials:
        share, pair = number(mapping(one).get("share"), 0, 1), _rates(one)
        if share is None or pair is None:
            return None
        points.append((share, *pair))
        if (same := number(one.get("kept"), 0, 1)) is not None:
            kept.append((share, same))
    goal = number(mapping(told.get("bounds")).get("goal"), 0, 1)
    share, recovered = number(told.get("share"), 0, 1), number(told.get("recovered"))
    found = {"trials": sorted(points), "kept": sorted(kept), "held": told.get("held") is True}
    return {**found, "share": share, "goal": goal, "recovered": recovered, **rates}


def _rates(value: Any) -> tuple[float, float] | None:
    harmful, harmless = (number(mapping(value).get(name), 0, 1) for name in ("harmful", "harmless"))
    return None if harmful is None or harmless is None else (harmful, harmless)
