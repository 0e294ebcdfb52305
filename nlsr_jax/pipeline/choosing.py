"""The automatic choice of a run: asked for, described in the record, and doubted where there is reason to."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from nlsr_jax.errors import InputError
from nlsr_jax.pipeline.adapters import Sources, whole_finetuned
from nlsr_jax.pipeline.identification import CalibrationData
from nlsr_jax.pipeline.settings import Settings
from nlsr_jax.pipeline.stages import Stages

AUTOMATIC: dict[str, Any] = {
    "method": "gain",
    "granularity": "adapter",
    "amplification_space": "factors",
    "rank": None,
    "space": "factors",
    "rule": "all",
    "tau": None,
    "share": None,
    "layers": None,
}
"""The settings of a run whose β and sparsity are chosen."""


def choose_for(
    settings: Settings,
    automatic: float | Mapping[str, float],
    sources: Sources,
    data: CalibrationData,
    stages: Stages,
) -> tuple[Settings, dict[str, Any]]:
    """Choose β and sparsity; returns the settings with them and what the record says of it.

    Args:
      settings: of the run.
      automatic: the aim, or some of ``aim``, ``headroom`` and ``share``; see ``choose_settings``.
      sources: the open adapter files.
      data: calibration rows and base.
      stages: where to report progress.

    Raises:
      InputError: an unknown wish, or what ``choose_settings`` cannot use.
    """
    from nlsr_jax.calibration.automatic import AIM, HEADROOM, choose_settings

    asked: dict[str, Any] = {"aim": AIM, "headroom": HEADROOM}
    asked |= automatic if isinstance(automatic, Mapping) else {"aim": automatic}
    unknown = sorted(set(asked) - {"aim", "headroom", "share"})
    if unknown:
        raise InputError(f"automatic has {unknown[0]!r}; expected some of aim, headroom, share")
    weak = None if sources.weak is None else sources.weak.load()
    adapters = (whole_finetuned(sources, settings), sources.aligned.load(), weak)
    batches = data.batches()
    (model, params), other = data.base_with(sources.target), data.base_with(sources.aligned)
    aligned_base = None if other[1] is params else other
    with stages("choose"):
        found = choose_settings(model, params, *adapters, batches, aligned_base=aligned_base, **asked)
    chosen = found.chosen
    changes: dict[str, Any] = {"beta": chosen.beta, "sparsity": 1 - chosen.share}
    if not chosen.share:
        changes = {"rule": "least_similar", "share": 0.0}
    names = ("met", "aimed", "target", "finetuned", "aligned", "change", "unmeasured")
    described: dict[str, Any] = asked | {name: getattr(found, name) for name in names}
    described |= {"chosen": chosen._asdict()}
    described |= {name: [one._asdict() for one in getattr(found, name)] for name in ("candidates", "trials")}
    return dataclasses.replace(settings, **changes), described


def describe_choice(described: Mapping[str, Any]) -> str:
    """Say in one line what was chosen."""
    chosen = described["chosen"]
    return (
        f"automatic: safe answers begin with probability {described['finetuned']:.3g} fine-tuned, "
        f"{described['aligned']:.3g} aligned, {described['aimed']:.3g} aimed at, {chosen['probability']:.3g} with "
        f"beta {chosen['beta']:g} and {chosen['share']:.4%} of the entries"
    )


def doubt_choice(described: Mapping[str, Any]) -> list[str]:
    """Say why a choice should not be trusted; see ``nlsr_jax.calibration.search.doubts``.

    Args:
      described: what the record says of it.

    Raises:
      InputError: a description, out of a record, that no choice has.
    """
    from nlsr_jax.calibration.automatic import DISTURBED
    from nlsr_jax.calibration.search import doubts

    try:
        chosen = described["chosen"]
        found = [one["divergence"] for one in described["candidates"] if _is(one, chosen)]
        divergence = min(found) if chosen["share"] and found else None
        return doubts(described["finetuned"], described["aligned"], divergence, DISTURBED)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError("record: 'automatic' is not the description of a choice") from error


def _is(candidate: Mapping[str, Any], chosen: Mapping[str, Any]) -> bool:
    return all(candidate[name] == chosen[name] for name in ("beta", "share"))


def note_choice(described: Mapping[str, Any]) -> list[str]:
    """Say where an automatic choice left safe answers less likely, or the adapter as it was.

    Raises:
      InputError: a description, out of a record, that no choice has.
    """
    try:
        return _notes(described)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError("record: 'automatic' is not the description of a choice") from error


def _notes(described: Mapping[str, Any]) -> list[str]:
    chosen, notes = described["chosen"], []
    if not described["met"]:
        notes.append(
            "no setting that was tried makes safe answers as likely as they should be: "
            f"they begin with probability {chosen['probability']:.3g}, aimed at {described['aimed']:.3g}"
        )
    if not chosen["share"]:
        why = (
            "safe answers are as likely as they should be"
            if described["met"]
            else "no repair that was tried gains more than its headroom"
        )
        notes.append(f"{why}: nothing is repaired")
    if described.get("unmeasured"):
        notes.append(f"{described['unmeasured']:d} settings that were tried amplify beyond what numbers hold")
    return notes
