"""What a run does about lineage: says the figures, refuses adapters that do not descend, notes what is odd."""

import math
from typing import Any

import numpy as np

from nlsr_jax.adapter import Adapter, layer_indices, module_names
from nlsr_jax.errors import InputError
from nlsr_jax.formats.peft_writing import PLAIN_STACK
from nlsr_jax.nlsr.lineage import Verdict, factor_cosines, judge_lineage, other_axis
from nlsr_jax.pipeline.adapters import ANY, Lineage, Sources, ahead, chunks, join, nameless, read_pieces
from nlsr_jax.pipeline.advice import FRESH_ADVICE
from nlsr_jax.pipeline.base_names import note_bases
from nlsr_jax.pipeline.settings import Settings
from nlsr_jax.pipeline.stages import Stages

_UNRELATED = (
    "masks and transplant mean nothing there. Give the adapter that fine-tuning started from as --aligned. "
    f"{FRESH_ADVICE}. --allow_unrelated goes on all the same"
)
_TURNED = (
    "their products are related and their factors do not share a rank axis, so masks and transplant mean nothing "
    "there: give --basis procrustes, or --basis linear where the adapter was factored anew, or --allow_unrelated"
)


def check_lineage(
    settings: Settings, shapes: Adapter, lineage: Lineage, warnings: list[str], stages: Stages, *, repeated: bool
) -> Verdict:
    """Say how the fine-tuned adapter lies to the aligned one; note what is odd.

    Args:
      settings: the settings.
      shapes: of the fine-tuned adapter.
      lineage: of all its modules.
      warnings: notes are added here.
      stages: where to print.
      repeated: the run repeats a record: what would be refused is noted.

    Returns:
      The verdict.

    Raises:
      InputError: modules that do not descend from the aligned ones, unless that is allowed.
    """
    verdict = judge_lineage(shapes, lineage.figures, basis=settings.basis)
    stages.say(f"lineage: {_figures(verdict)}")
    allowed = settings.allow_unrelated or repeated
    count = sum(len(layer_indices(shapes, module)) for module in module_names(shapes.factors))
    for names, what, advice in (
        (verdict.unrelated, "do not descend from the aligned adapter", _UNRELATED),
        (verdict.turned, "do not descend from the aligned adapter factor for factor", _TURNED),
    ):
        if names:
            message = f"{len(names)} of {count} modules {what}: {_some(names, 8)}; {_figures(verdict)}"
            if not allowed:
                raise InputError(f"{settings.finetuned}: {message}; {_why(verdict, settings)}{advice}")
            warnings.append(message)
    if verdict.faint:
        faint = f"{len(verdict.faint)} of {count} modules keep little of the aligned ones, by their products"
        warnings.append(f"{faint}: {_some(verdict.faint, 8)}")
    _note_zeros(shapes, lineage, warnings)
    return verdict


def check_weak(settings: Settings, sources: Sources, warnings: list[str], *, repeated: bool = False) -> None:
    """Check that the difference of the aligned and the weak adapter means something, factor for factor.

    Args:
      settings: the settings.
      sources: the open files.
      warnings: notes are added here.
      repeated: the run repeats a record: what would be refused is noted.

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
    if not (settings.allow_unrelated or repeated):
        rank = max(leaf["a"].shape[1] for leaf in shapes.factors.values())
        or_else = ", or --allow_unrelated" if settings.finetuned else ""  # a flag of realign alone
        raise InputError(
            f"{settings.weak}: {message}, so aligned − weak means nothing entry by entry: leave --weak out, or "
            f"give --amplification_space product --rank {rank}{or_else}"
        )
    warnings.append(f"weak: {message}")


def _cosines(pieces):
    return factor_cosines(*(nameless(piece).factors[ANY] for piece in pieces))


def _figures(verdict: Verdict) -> str:
    if not verdict.measured:
        return "the products B A are zero in every module, which leaves nothing to compare"
    kept = "" if math.isnan(verdict.kept) else f", {verdict.kept:.0%} of the aligned products kept"
    return (
        f"mean cosine with the aligned adapter {verdict.product:.3f} of the products B A, "
        f"{verdict.b:.3f} of B, {verdict.a:.3f} of A{kept}"
    )


def _why(verdict: Verdict, settings: Settings) -> str:
    """What an equal A means where the products have nothing in common."""
    if verdict.unrelated and verdict.a > 0.9 and settings.basis == "as_is":
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


def describe_module(figures, module: str, row: int) -> dict[str, float]:
    """Return what a record says of the lineage of one module of one layer; nothing where it was not measured."""
    if module not in figures:
        return {}
    found = {name: float(values[row]) for name, values in figures[module].items()}
    return {"lineage": found["product"], **{f"lineage_{name}": value for name, value in found.items()}}


def note_base_names(settings: Settings, sources: Sources) -> list[str]:
    """Say where ``--base`` and the adapters' configs name different models."""
    files = {name: file for name, file in sources._asdict().items() if getattr(settings, name)}
    named = {name: file.layout.config.get("base_model_name_or_path") for name, file in files.items()}
    return note_bases({"--base": settings.base, **named})


def note_place(settings: Settings, sources: Sources) -> list[str]:
    """Say where the written adapter's layers are in another place than those of the base that the run reads.

    PEFT goes by the whole path: on that base it would find none of them.
    """
    stack = sources.target.layout.stack
    if stack == PLAIN_STACK or not (settings.needs_base or settings.pretrained):
        return []
    return [
        f"{sources.target.path}: its layers are in {stack.prefix}{stack.name}, and written so; those of "
        f"{settings.base} are in {PLAIN_STACK.prefix}{PLAIN_STACK.name}, where PEFT finds none of them: to use "
        "this base, save the adapter again with nlsr_jax.save_adapter(nlsr_jax.load_adapter(folder), "
        "new_folder), which gives them its names"
    ]


def _note_zeros(shapes: Adapter, lineage: Lineage, warnings: list[str]) -> None:
    for name, zeros in (("aligned", lineage.zero_aligned), ("finetuned", lineage.zero_finetuned)):
        found = [
            f"layer {layer} {module}.{factor}"
            for module in module_names(zeros)
            for factor, flags in zeros[module].items()
            for layer, zero in zip(layer_indices(shapes, module), np.asarray(flags), strict=True)
            if zero
        ]
        if found:
            warnings.append(f"{name}: {len(found)} factors are zero throughout: {_some(found, 4)}")
