"""Render the record of a realignment as one self-contained HTML page.

Everything in the record is data: it is escaped, never interpreted. The page loads nothing, and its own
content security policy forbids it to.
"""

import base64
import functools
import hashlib
import importlib.resources
import math
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nlsr_jax.errors import InputError
from nlsr_jax.files.output import whole_file, write_text
from nlsr_jax.files.ownership import text_with
from nlsr_jax.modules import module_order
from nlsr_jax.report import words
from nlsr_jax.report.check_tables import (
    BOUND_HEADS,
    PAIR_HEADS,
    RATE_HEADS,
    bound_rows,
    notes_of,
    outcome_text,
    pair_rows,
    rate_rows,
)
from nlsr_jax.report.reading import Module, mapping, number, read_modules, read_refinement, summarise

if TYPE_CHECKING:
    import jinja2

_TITLE = "<title>Realignment: "
_PARTS = ("device", "versions", "seconds", "key", "outputs", "lift", "weights")


def write_report(record: Mapping[str, Any], path: str | os.PathLike, figures: Mapping | None = None) -> None:
    """Write the page that explains a realignment.

    Args:
      record: the content of ``realignment.json``; ``modules`` and ``settings`` are required, other parts are
        shown if present.
      path: the HTML file to write; an existing page is replaced.
      figures: figures of this record from ``draw_figures``, if already drawn.

    Raises:
      InputError: if the record has no readable modules or settings, another kind of file is at ``path``, or the
        page cannot be written.
    """
    text = render_report(record, figures)
    with whole_file(path, overwrite=True, foreign=text_with(_TITLE)) as file:
        write_text(file, text)


def render_report(record: Mapping[str, Any], figures: Mapping | None = None) -> str:
    """Return the page that explains a realignment; the same record gives the same text.

    Args:
      record: the content of ``realignment.json``.
      figures: figures of this record from ``draw_figures``, if already drawn.

    Returns:
      HTML with embedded style, figures and script; it loads nothing.

    Raises:
      InputError: if the record has no readable modules or settings.
    """
    modules, summary = _read(record)
    doubts = _texts(mapping(record.get("automatic")).get("doubts"))
    return make_template("template.html").render(
        settings={name: value for name, value in record["settings"].items() if name not in words.COMPUTING},
        modules=modules,
        summary=summary,
        figures=draw_figures(record) if figures is None else figures,
        identification=mapping(record.get("identification")),
        carried=_carried(mapping(record.get("carried"))),
        calibration=mapping(record.get("calibration")),
        doubts=doubts,
        refinement=read_refinement(record),
        check=_check(mapping(record.get("check"))),
        shows_changes=_shows_changes(record, summary),
        residuals=_residuals(record),
        ranks=_ranks(record),
        warnings=[warning for warning in _texts(record.get("warnings")) if warning not in doubts],
        inputs=_inputs(mapping(record.get("inputs"))),
        seed=mapping(record.get("key")).get("seed", record["settings"].get("seed")),
        pruning_key=mapping(mapping(record.get("key")).get("pruning")),
        **{part: mapping(record.get(part)) for part in _PARTS},
    )


def _read(record) -> tuple[tuple[Module, ...], dict]:
    """Return the record's modules and their summary."""
    if not isinstance(record.get("settings"), Mapping):
        raise InputError("record: 'settings' is missing; expected the settings of the run by name")
    modules = read_modules(record)
    return modules, _summary(record, summarise(modules))


def _summary(record, summary: dict) -> dict:
    """Add to a summary what only the record's own summary knows."""
    for name in ("changed_entries", "total_entries"):
        if not summary["counted"]:
            summary[name] = number(mapping(record.get("summary")).get(name), 0)
    changed, total = summary["changed_entries"], summary["total_entries"]
    summary["changed_share"] = changed / total if changed is not None and total else None
    described = mapping(record.get("lineage"))
    summary["lineage_means"] = {name: number(described.get(name)) for name in ("product", "b", "a", "kept")}
    return summary


def draw_figures(record: Mapping[str, Any]) -> dict[str, Any]:
    """Draw the figures that the record has data for.

    Args:
      record: the content of ``realignment.json``; its ``settings`` and ``modules`` are used.

    Returns:
      ``{name: (number in the order of the page, SVG markup)}``.

    Raises:
      InputError: if the record has no readable modules or settings.
    """
    from markupsafe import Markup

    from nlsr_jax.report import figures

    modules, summary = _read(record)
    settings = record["settings"]
    tau = number(settings.get("tau")) if settings.get("rule") == "threshold" else None
    drawn = {}
    refinement = read_refinement(record)
    if refinement and refinement["trials"]:
        drawn["refinement"] = figures.refinement_curve(refinement)
    if _shows_changes(record, summary):
        if summary["change"] is not None:
            drawn["change"] = figures.change_map(modules)
        drawn["replaced"] = figures.replaced_map(modules)
        if settings.get("rule") == "probability":
            drawn["repair"] = figures.repair_map(modules)
    else:
        drawn["similarity"] = figures.similarity_map(modules)
        drawn["repair"] = figures.repair_map(modules)
        drawn["sorted"] = figures.sorted_similarity(modules, tau)
    if summary["counted"]:
        drawn["masks"] = figures.mask_figure(modules)
    if summary["lineage"]:
        drawn["lineage"] = figures.lineage_map(modules)
    return {name: (i, Markup(svg)) for i, (name, svg) in enumerate(drawn.items(), 1)}


def _shows_changes(record, summary: Mapping[str, Any]) -> bool:
    """Say whether the page shows what was changed in place of similarities.

    The entries of gain lie where the adapters differ, and the adapters of a lift share no entries: there the
    similarity is near 0 in all modules.
    """
    gain = mapping(record.get("identification")).get("method") == "gain"
    whole = bool(mapping(record.get("lift")) or mapping(record.get("weights")))
    return summary["counted"] and (gain or whole)


def _residuals(record) -> list[tuple[str, float, float]]:
    """Return what ranks leave out: ``(description, mean, largest)`` of the relative residuals."""
    lift = mapping(record.get("lift"))
    compression = mapping(lift.get("compression"))
    parts = [("Difference of base and pretrained model, at its rank", mapping(lift.get("residual")))]
    if compression:
        text = f"Written update, compressed to rank {compression.get('rank')}"
        parts.append((text, mapping(compression.get("residual"))))
    found = []
    for text, residual in parts:
        rows = [row for row in residual.values() if isinstance(row, list)]
        values = [value for row in rows for value in row if number(value, 0) is not None]
        if values:
            found.append((text, math.fsum(values) / len(values), max(values)))
    return found


def _ranks(record) -> list[tuple[str, Mapping]]:
    """Return the ranks of a lifted adapter by module name, in module order."""
    ranks = mapping(mapping(record.get("lift")).get("ranks"))
    return [(name, mapping(ranks[name])) for name in sorted(ranks, key=module_order)]


def _check(check: Mapping) -> dict[str, Any]:
    """Return the outcome of a check, its judge, its notes and its tables as ``(heads, rows)``."""
    if not check:
        return {}
    tables = ((RATE_HEADS, rate_rows(check)), (BOUND_HEADS, bound_rows(check)), (PAIR_HEADS, pair_rows(check)))
    found = {"outcome": outcome_text(check), "judge": check.get("judge"), "notes": notes_of(check)}
    return {**found, "tables": [one for one in tables if one[1]]}


def _inputs(inputs: Mapping) -> list[tuple[Any, Any, Mapping]]:
    """Return rows of the table of inputs: description, path, digests by file name."""
    rows = [(name, mapping(value), mapping(mapping(value).get("files"))) for name, value in inputs.items() if value]
    return [
        (words.INPUTS.get(name, name), value.get("path"), files)
        for name, value, files in rows
        if files or name != "companions"
    ]


def _carried(described: Mapping) -> dict[str, Any]:
    """Return the record's list of carried tensors, and how many more there are."""
    tensors = described.get("tensors")
    listed = [mapping(tensor) for tensor in tensors] if isinstance(tensors, list) else []
    count = number(described.get("count"), 0)
    if not listed or count is None:
        return {}
    return {"count": count, "bytes": described.get("bytes"), "tensors": listed, "left": max(0, count - len(listed))}


def _texts(value) -> list:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def _part(name: str) -> str:
    return (importlib.resources.files("nlsr_jax.report") / name).read_text(encoding="utf-8")


def make_template(name: str) -> "jinja2.Template":
    """Return a page's template with the style and script of all pages; it escapes everything it prints.

    Args:
      name: of the template in this package. Each begins with ``head.html``, which allows the script where ``sorts``
        is set.
    """
    return _environment().get_template(name)


@functools.cache
def _environment() -> "jinja2.Environment":
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        autoescape=True,
        finalize=words.finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.FunctionLoader(_part),
    )
    environment.filters |= {"count": words.count, "decimal": words.decimal, "percent": words.percent}
    script = _part("sort.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment.globals |= {
        "style": Markup(_part("style.css")),
        "script": Markup(script),
        "script_digest": digest,
        "words": {name: getattr(words, name) for name in ("SETTINGS", "METHODS", "CALIBRATION")},
    }
    return environment
