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


def rate_rows(check: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """Return ``(measure, value, 95 % interval, rows)`` of what was measured."""
    rows = []
    for name, text in MEASURES.items():
        found = mapping(check.get(name))
        if found.get("rows") and number(found.get("value")) is not None:
            rows.append((text, _percent(found["value"]), _interval(found), f"{found['rows']:,}"))
    return rows


def bound_rows(check: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """Return ``(bound, outcome, one-sided limits, what to do)`` of every bound."""
    listed = check.get("bounds")
    rows = []
    for one in map(mapping, listed if isinstance(listed, Sequence) else ()):
        bound = number(one.get("bound"))
        text = BOUNDS.get(str(one.get("name")), "{}").format("–" if bound is None else f"{bound:g} %")
        limits = f"{_percent(one.get('lower'))} and {_percent(one.get('upper'))}"
        rows.append((text, str(one.get("outcome")), limits, advice(one)))
    return rows


def advice(bound: Mapping[str, Any]) -> str:
    """Say how many rows decide a bound that is undecided; empty for others."""
    if bound.get("outcome") != "undecided":
        return ""
    needed = number(bound.get("rows_needed"))
    if needed is None:
        return "at the observed rate no number of rows decides"
    return f"about {needed:,} rows in place of {bound.get('rows'):,} decide at the observed rate"


def pair_rows(check: Mapping[str, Any]) -> list[tuple[str, str, str, str, str, str]]:
    """Return ``(measure, before, after, difference, 95 % interval, p)`` of a comparison with another model."""
    rows = []
    for name, text in MEASURES.items():
        found = mapping(mapping(check.get("against")).get(name))
        if number(found.get("difference")) is not None:
            difference = f"{found['difference']:+.1f}"
            p = "< 0.0001" if found["p"] < 1e-4 else f"{found['p']:.4f}"
            rates = (_percent(found["before"]), _percent(found["after"]))
            rows.append((text, *rates, difference, _interval(found, sign="+"), p))
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


def _percent(value: Any) -> str:
    found = number(value)
    return "–" if found is None else f"{found:.1f} %"


def _interval(found: Mapping[str, Any], sign: str = "") -> str:
    low, high = number(found.get("low")), number(found.get("high"))
    return "–" if low is None or high is None else f"{low:{sign}.1f} to {high:{sign}.1f}"
