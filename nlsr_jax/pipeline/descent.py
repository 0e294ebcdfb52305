"""What a run does about lineage: says the figures, refuses adapters that do not descend, notes what is odd."""

import math
from typing import Any, NamedTuple

import numpy as np

from nlsr_jax.adapter import Adapter, PerModule, layer_indices, module_names
from nlsr_jax.errors import InputError, argument
from nlsr_jax.nlsr.lineage import Verdict, factor_cosines, judge_lineage, other_axis
from nlsr_jax.pipeline.advice import FRESH_ADVICE
from nlsr_jax.pipeline.chunks import ANY, ahead, chunks, join, nameless
from nlsr_jax.pipeline.lineage import NOT_MEASURED, Lineage, measure_lineage
from nlsr_jax.pipeline.reference import Pieces, read_pieces
from nlsr_jax.pipeline.run import Run
from nlsr_jax.pipeline.settings import Settings
from nlsr_jax.pipeline.sources import Sources

_UNRELATED = (
    f"masks and transplant mean nothing there. Give the adapter that fine-tuning started from as "
    f"{argument('aligned')}. {FRESH_ADVICE}. {argument('allow_unrelated')} goes on all the same"
)
_TURNED = (
    "their products are related and their factors do not share a rank axis, so masks and transplant mean nothing "
    f"there: give {argument('basis')} procrustes, or {argument('basis')} linear where the adapter was factored "
    f"anew, or {argument('allow_unrelated')}"
)


class Descent(NamedTuple):
    """How the fine-tuned adapter lies to the aligned one, and what is said of it.

    Attributes:
      lineage: of every module.
      verdict: of the adapter; None for adapters that were lifted.
    """

    lineage: Lineage
    verdict: Verdict | None


def judge_descent(settings: Settings, sources: Sources, run: Run) -> Descent | None:
    """Measure and check the lineage before anything costly.

    Args:
      settings: of the run.
      sources: the open files.
      run: the context.

    Returns:
      What was found; None where masks are given: then the adapters are read once, when they are compared.

    Raises:
      InputError: adapters that do not descend from each other, unless that is allowed.
    """
    if settings.lifts:
        return Descent(NOT_MEASURED, None)
    if settings.masks is not None:
        return None
    with run.stages("check lineage"):
        check_weak(settings, sources, run)
        found = measure_lineage(sources)
        return Descent(found, check_lineage(settings, sources.target.shapes(), found, run))


def check_lineage(settings: Settings, shapes: Adapter, lineage: Lineage, run: Run) -> Verdict:
    """Say how the fine-tuned adapter lies to the aligned one; note what is odd.

    Args:
      settings: the settings.
      shapes: of the fine-tuned adapter.
      lineage: of all its modules.
      run: the context, which receives the notes.

    Returns:
      The verdict.

    Raises:
      InputError: modules that do not descend from the aligned ones, unless that is allowed.
    """
    verdict = judge_lineage(shapes, lineage.figures, basis=settings.basis)
    run.stages.say(f"lineage: {_figures(verdict)}")
    allowed = settings.allow_unrelated or run.recorded is not None
    count = sum(len(layer_indices(shapes, module)) for module in module_names(shapes.factors))
    for names, what, advice in (
        (verdict.unrelated, "do not descend from the aligned adapter", _UNRELATED),
        (verdict.turned, "do not descend from the aligned adapter factor for factor", _TURNED),
    ):
        if names:
            message = f"{len(names)} of {count} modules {what}: {_some(names, 8)}; {_figures(verdict)}"
            if not allowed:
                raise InputError(f"{settings.finetuned}: {message}; {_why(verdict, settings.basis)}{advice}")
            run.notes.add([message])
    if verdict.faint:
        faint = f"{len(verdict.faint)} of {count} modules keep little of the aligned ones, by their products"
        run.notes.add([f"{faint}: {_some(verdict.faint, 8)}"])
    run.notes.add(_zeros(shapes, lineage))
    return verdict


def check_weak(settings: Settings, sources: Sources, run: Run) -> None:
    """Check that the difference of the aligned and the weak adapter means something, factor for factor.

    Args:
      settings: the settings.
      sources: the open files.
      run: the context, which receives the notes.

    Raises:
      InputError: modules of the weak adapter with another rank axis, unless that is allowed.
    """
    if sources.weak is None or settings.amplification_space != "factors":
        return
    shapes = sources.weak.shapes()
    read = ahead(chunks(shapes), lambda chunk: read_pieces(sources, chunk))
    found = join({chunk.module: _cosines(pieces)} for chunk, pieces in read)
    names = other_axis(shapes, found)
    if not names:
        return
    message = f"{len(names)} modules do not share the aligned adapter's rank axis: {_some(names, 8)}"
    if not (settings.allow_unrelated or run.recorded is not None):
        rank = max(leaf["a"].shape[1] for leaf in shapes.factors.values())
        # The argument is of a realignment alone.
        or_else = f", or {argument('allow_unrelated')}" if settings.finetuned else ""
        raise InputError(
            f"{settings.weak}: {message}, so aligned − weak means nothing entry by entry: leave "
            f"{argument('weak')} out, or give {argument('amplification_space')} product {argument('rank')} "
            f"{rank}{or_else}"
        )
    run.notes.add([f"weak: {message}"])


def _cosines(pieces: Pieces) -> PerModule:
    assert pieces.weak is not None
    return factor_cosines(nameless(pieces.aligned).factors[ANY], nameless(pieces.weak).factors[ANY])


def _figures(verdict: Verdict) -> str:
    if not verdict.measured:
        return "the products B A are zero in every module, which leaves nothing to compare"
    kept = "" if math.isnan(verdict.kept) else f", {verdict.kept:.0%} of the aligned products kept"
    return (
        f"mean cosine with the aligned adapter {verdict.product:.3f} of the products B A, "
        f"{verdict.b:.3f} of B, {verdict.a:.3f} of A{kept}"
    )


def _why(verdict: Verdict, basis: str) -> str:
    """What an equal A means where the products have nothing in common."""
    if verdict.unrelated and verdict.a > 0.9 and basis == "as_is":
        return "an equal A alone comes of an equal seed and is no lineage; "
    return ""


def _some(names, most: int) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def describe_verdict(verdict: Verdict) -> dict[str, Any]:
    """Return what a record says of the lineage of the adapter as a whole."""
    means = {name: getattr(verdict, name) for name in ("product", "b", "a", "kept")}
    found: dict[str, Any] = {name: None if math.isnan(value) else value for name, value in means.items()}
    counts = {name: len(getattr(verdict, name)) for name in ("unrelated", "turned", "faint")}
    return found | {"descends": verdict.descends, "measured": verdict.measured, **counts}


def describe_module(figures: Any, module: str, row: int) -> dict[str, float]:
    """Return what a record says of the lineage of one module of one layer; nothing where it was not measured."""
    if module not in figures:
        return {}
    found = {name: float(values[row]) for name, values in figures[module].items()}
    return {"lineage": found["product"], **{f"lineage_{name}": value for name, value in found.items()}}


def _zeros(shapes: Adapter, lineage: Lineage) -> list[str]:
    notes = []
    for name, zeros in (("aligned", lineage.zero_aligned), ("finetuned", lineage.zero_finetuned)):
        found = [
            f"layer {layer} {module}.{factor}"
            for module in module_names(zeros)
            for factor, flags in zeros[module].items()
            for layer, zero in zip(layer_indices(shapes, module), np.asarray(flags), strict=True)
            if zero
        ]
        if found:
            notes.append(f"{name}: {len(found)} factors are zero throughout: {_some(found, 4)}")
    return notes
