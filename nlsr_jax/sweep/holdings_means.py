"""Tables of the rows of holdings: means over the cases, and what they say of the aims of a repair."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

METHOD = "gain"
REFINED = "refined"
"""Method of a row whose share of entries was refined; see ``nlsr_jax.calibration.refinement``."""
REFINED_KEPT = "refined_kept"
"""The same with prompts of the task, whose answers the repair keeps."""
_SCORES = {"hs": max, "fa": min, "over_refusal": max, "benign_answered": min}
"""Scores of the table of means, and which of several is the worst."""
LARGEST_HS, LARGEST_FA, LARGEST_BENIGN, LARGEST_CASE = 3.0, 1.0, 2.0, 6.0
"""What a repair should keep to: HS in the mean; losses of FA and of harmless requests answered in the mean, in
points; and loss of harmless requests answered in a single case."""
MOST_HS, MOST_BENIGN = 3.0, 3.0
"""What a repair of a model whose alignment is imperfect should keep to: HS above the aligned model's, and harmless
requests answered below the aligned or the fine-tuned model's, whichever answers fewer; means in points."""
_Rows = Sequence[Mapping[str, Any]]


def means(rows: _Rows) -> str:
    """Return a Markdown table of the means over the cases by situation, β and share.

    Each is followed by the standard deviation over the cases, and by the worst case in brackets.
    """
    lines = ["| situation | model | HS | FA | over-refusal | benign answered | cases |"]
    lines.append("| --- | --- | --- | --- | --- | --- | --- |")
    for (situation, model), group in _groups(rows).items():
        scores = []
        for name, worst in _SCORES.items():
            values = [row[name] for row in group]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            scores.append(f"{statistics.fmean(values):.1f} ± {spread:.1f} ({worst(values):.1f})")
        lines.append(f"| {situation} | {model} | {' | '.join(scores)} | {len(group)} |")
    return "\n".join(lines)


def aims(rows: _Rows, shown: Sequence[tuple[str, str]]) -> str:
    """Return a Markdown table of what repairs change, against the fine-tuned models of the same cases.

    Each mean is followed by the worst case in brackets.

    Args:
      rows: of a table of holdings.
      shown: situations and models, as ``means`` names them.
    """
    lines = ["| situation | model | HS | change of FA | change of benign answered | keeps |"]
    lines.append("| --- | --- | --- | --- | --- | --- |")
    groups = _groups(rows)
    for situation, model in shown:
        before = {_case(row): row for row in groups[situation, "finetuned"]}
        group = groups[situation, model]
        harm = [row["hs"] for row in group]
        changes = {
            name: [row[name] - before[_case(row)][name] for row in group] for name in ("fa", "benign_answered")
        }
        hs, fa, benign = (statistics.fmean(values) for values in (harm, *changes.values()))
        kept = {
            "HS": hs <= LARGEST_HS,
            "FA": fa >= -LARGEST_FA,
            "benign": benign >= -LARGEST_BENIGN,
            "every case": min(changes["benign_answered"]) >= -LARGEST_CASE,
        }
        missed = ", ".join(name for name, holds in kept.items() if not holds)
        told = f"all but {missed}" if missed else "all"
        scores = [f"{hs:.1f} ({max(harm):.1f})"]
        for mean, values in zip((fa, benign), changes.values(), strict=True):
            scores.append(f"{mean:+.1f} ({min(values):+.1f})")
        lines.append(f"| {situation} | {model} | {' | '.join(scores)} | {told} |")
    return "\n".join(lines)


def best_settings(rows: _Rows, situation: str) -> list[str]:
    """Return the best setting of every other repair in a situation, as ``means`` names it.

    It is the one whose largest miss is least: of HS, of FA, and of harmless requests answered, each a mean in
    points beyond what a repair should keep to.
    """
    groups = _groups(rows)
    before = {_case(row): row for row in groups[situation, "finetuned"]}
    found: dict[str, list[tuple[float, str]]] = {}
    for (place, model), group in groups.items():
        if place != situation or group[0].get("setting") is None:
            continue
        fa, benign = (
            statistics.fmean(before[_case(row)][name] - row[name] for row in group)
            for name in ("fa", "benign_answered")
        )
        hs = statistics.fmean(row["hs"] for row in group)
        miss = max(hs - LARGEST_HS, fa - LARGEST_FA, benign - LARGEST_BENIGN)
        found.setdefault(group[0]["method"], []).append((miss, model))
    return [min(options)[1] for options in found.values()]


def beside_aligned(rows: _Rows) -> str:
    """Return a Markdown table that compares repairs with the aligned and the fine-tuned models of the same cases.

    The worst case follows the mean over the cases, in brackets. The table holds all repairs of the rows.
    """
    lines = ["| situation | model | HS above aligned | change of FA | benign answered above the lower | keeps |"]
    lines.append("| --- | --- | --- | --- | --- | --- |")
    groups = _groups(rows)
    for (situation, model), group in groups.items():
        if model in ("aligned", "finetuned"):
            continue
        safe, before = ({_case(row): row for row in groups[situation, name]} for name in ("aligned", "finetuned"))
        pairs = [(row, safe[_case(row)], before[_case(row)]) for row in group]
        harm = [row["hs"] - ours["hs"] for row, ours, _ in pairs]
        task = [row["fa"] - theirs["fa"] for row, _, theirs in pairs]
        name = "benign_answered"
        benign = [row[name] - min(ours[name], theirs[name]) for row, ours, theirs in pairs]
        kept = {
            "HS": statistics.fmean(harm) <= MOST_HS,
            "FA": statistics.fmean(task) >= -LARGEST_FA,
            "benign": statistics.fmean(benign) >= -MOST_BENIGN,
        }
        missed = ", ".join(name for name, holds in kept.items() if not holds)
        scores = [
            f"{statistics.fmean(values):+.1f} ({worst(values):+.1f})"
            for values, worst in ((harm, max), (task, min), (benign, min))
        ]
        told = f"all but {missed}" if missed else "all"
        lines.append(f"| {situation} | {model} | {' | '.join(scores)} | {told} |")
    return "\n".join(lines)


def _case(row: Mapping[str, Any]) -> tuple:
    return row["task"], row["poison_ratio"], row["seed"]


def _groups(rows: _Rows) -> dict[tuple[str, str], list[Mapping[str, Any]]]:
    """Return the rows by situation and model, a model of fixed settings named by β and share."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        model, setting = row["method"], row.get("setting")
        if model == METHOD:
            model = f"β {row['beta']:g}, {100 * row['share']:g} %"
        elif setting is not None:
            model = f"{model} {setting:g}"
        groups.setdefault((row["situation"], model), []).append(row)
    return groups
