"""The figures of a check as rows of text, for its own page, the model card and the report."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nlsr_jax.report.reading import mapping, number

MEASURES = {
    "hs": "harmful requests answered harmfully (HS)",
    "over_refusal": "harmless requests refused",
    "benign_answered": "harmless requests answered",
    "fa": "task rows answered correctly (FA)",
    "odd": "answers that are empty or incoherent",
}
BOUNDS = {
    "max_hs": "HS at most {}",
    "max_over_refusal": "harmless requests refused at most {}",
    "min_benign": "harmless requests answered at least {}",
    "min_fa": "FA at least {}",
}
OUTCOMES = {
    "passes": "passes: every bound holds with 95 % confidence",
    "fails": "fails: a bound is violated with 95 % confidence",
    "undecided": "undecided: there are too few rows to tell",
    "measured": "measured, without a bound",
}

RATE_HEADS = ("measure", "value", "95 % interval", "rows")
BOUND_HEADS = ("bound", "outcome", "one-sided 95 % limits", "to decide")
PAIR_HEADS = ("measure", "before", "after", "difference in points", "95 % interval", "p")


def outcome_text(check: Mapping[str, Any]) -> str:
    """Return the outcome in words."""
    return OUTCOMES.get(str(check.get("outcome")), "unknown")


def rate_rows(check: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return ``(measure, value, 95 % interval, rows)`` of what was measured."""
    rows: list[tuple[str, ...]] = []
    for name, text in MEASURES.items():
        found = mapping(check.get(name))
        count = number(found.get("rows"), 1)
        if count is not None and number(found.get("value")) is not None:
            rows.append((text, _percent(found["value"]), _interval(found), f"{count:,}"))
    return rows


def bound_rows(check: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return ``(bound, outcome, one-sided limits, what to do)`` of every bound."""
    listed = check.get("bounds")
    rows: list[tuple[str, ...]] = []
    for one in map(mapping, listed if isinstance(listed, list) else ()):
        bound = number(one.get("bound"))
        text = BOUNDS.get(str(one.get("name")), "{}").format("–" if bound is None else f"{bound:g} %")
        limits = f"{_percent(one.get('lower'))} and {_percent(one.get('upper'))}"
        rows.append((text, str(one.get("outcome")), limits, advice(one)))
    return rows


def advice(bound: Mapping[str, Any]) -> str:
    """Say how many rows decide a bound that is undecided; empty for others."""
    if bound.get("outcome") != "undecided":
        return ""
    needed, rows = number(bound.get("rows_needed")), number(bound.get("rows"))
    if needed is None or rows is None:
        return "at the observed rate no number of rows decides"
    return f"about {needed:,} rows in place of {rows:,} decide at the observed rate"


def pair_rows(check: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return ``(measure, before, after, difference, 95 % interval, p)`` of a comparison with another model."""
    rows: list[tuple[str, ...]] = []
    for name, text in MEASURES.items():
        found = mapping(mapping(check.get("against")).get(name))
        difference, p = number(found.get("difference")), number(found.get("p"))
        if difference is not None and p is not None:
            rates = (_percent(found.get("before")), _percent(found.get("after")))
            shown = "< 0.0001" if p < 1e-4 else f"{p:.4f}"
            rows.append((text, *rates, f"{difference:+.1f}", _interval(found, sign="+"), shown))
    return rows


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def check_sections(check: Mapping[str, Any]) -> list[str]:
    """Return the tables of a check in Markdown."""
    parts = [markdown_table(RATE_HEADS, rate_rows(check))]
    if bounds := bound_rows(check):
        parts.append(markdown_table(BOUND_HEADS, bounds))
    if pairs := pair_rows(check):
        parts.append(markdown_table(PAIR_HEADS, pairs))
    return parts


def agreement_line(second: Mapping[str, Any], first: str) -> str:
    """Return in one line how two judges agree.

    Args:
      second: the field ``second_judge`` of a record.
      first: name of the first judge.
    """
    found = second["agreement"]
    kappa = "undefined" if found["kappa"] is None else f"{found['kappa']:.2f}"
    agreed = found["table"][0][0] + found["table"][1][1]
    return f"{second['judge']} agrees with {first} on {agreed} of {found['rows']} answers; Cohen's kappa is {kappa}"


def notes_of(check: Mapping[str, Any]) -> list[str]:
    """Return what a reader should know of the figures, such as that the repair has read the requests."""
    listed = check.get("notes")
    return [note for note in listed if isinstance(note, str)] if isinstance(listed, list) else []


def _percent(value: Any) -> str:
    found = number(value)
    return "–" if found is None else f"{found:.1f} %"


def _interval(found: Mapping[str, Any], sign: str = "") -> str:
    low, high = number(found.get("low")), number(found.get("high"))
    return "–" if low is None or high is None else f"{low:{sign}.1f} to {high:{sign}.1f}"
