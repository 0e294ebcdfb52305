"""The automatic choice of a run: asked for, described in the record, and doubted where there is reason to."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from nlsr_jax.calibration.asking import CannotRefine
from nlsr_jax.calibration.refinement import Bounds
from nlsr_jax.errors import InputError, argument
from nlsr_jax.nlsr.settings import GAIN, ROWS, AutomaticSettings
from nlsr_jax.pipeline.evidence import CalibrationData
from nlsr_jax.pipeline.recording import HARMLESS, KEEP
from nlsr_jax.pipeline.refining import note_refinement, refined
from nlsr_jax.pipeline.run import Run
from nlsr_jax.pipeline.settings import Settings

if TYPE_CHECKING:
    from nlsr_jax.calibration.search import Automatic

_FIXED = ("amplification_space", "rank", "method", "granularity", "rule", "tau", "share", "layers", "space")
"""Settings that a run whose β and sparsity are chosen has from ``GAIN``."""
CHOSEN = ("beta", "sparsity", *_FIXED, "answers")
"""Settings that cannot be given to such a run."""


class Refinement(NamedTuple):
    """How the share of entries is refined.

    Attributes:
      bounds: what is gone for.
      if_possible: use the settings as they are where rows or prompts cannot refine them; without, that is an error.
    """

    bounds: Bounds = Bounds()
    if_possible: bool = False


class Choice(NamedTuple):
    """What a run chooses by itself.

    Attributes:
      asked: what the automatic choice of β and sparsity goes for; None where there is none.
      told: its description in the record that is repeated.
      refinement: of the sparsity; None where there is none.
      refined: its description in the record that is repeated.
    """

    asked: AutomaticSettings | None = None
    told: Mapping[str, Any] | None = None
    refinement: Refinement | None = None
    refined: Mapping[str, Any] | None = None


def asked_for(automatic: float | Mapping[str, float]) -> AutomaticSettings:
    """Return what a choice is asked for.

    Args:
      automatic: the aim, or some fields of ``AutomaticSettings``.

    Raises:
      InputError: an unknown field.
    """
    asked: dict[str, Any] = dict(automatic) if isinstance(automatic, Mapping) else {"aim": automatic}
    known = [field.name for field in dataclasses.fields(AutomaticSettings)]
    unknown = sorted(set(asked) - set(known))
    if unknown:
        raise InputError(f"automatic has {unknown[0]!r}; expected some of {', '.join(known)}")
    return AutomaticSettings(**asked)


def with_choice(settings: Settings, choice: Choice) -> Settings:
    """Return the settings of a run as its choice takes them, checked before anything is read.

    Raises:
      InputError: settings that leave nothing to choose, a method that is not refined, two choices of the same, or
        prompts without a use.
    """
    if choice.asked is not None and choice.refinement is not None:
        raise InputError(
            f"{argument('automatic')} and {argument('refine')} both choose the sparsity; leave one of them out"
        )
    name = "automatic" if choice.asked is not None else "refine"
    if choice.asked is None and choice.refinement is None:
        for prompts in (HARMLESS, KEEP):
            if getattr(settings, prompts) is not None and choice.refined is None:
                raise InputError(
                    f"{argument(prompts)} is read only to refine the share of entries, which these settings fix; "
                    f"leave it out, or give {argument('refine')}"
                )
        return settings
    if settings.masks is not None:
        raise InputError(
            f"{argument('masks')} are given together with {argument(name)}, which finds them; leave one of them out"
        )
    if choice.asked is None:
        for part in ("method", "granularity", "rule"):
            if getattr(settings, part) != getattr(GAIN, part):
                raise InputError(
                    f"{argument(name)} refines the share of {argument('method')} {GAIN.method} with "
                    f"{argument('granularity')} {GAIN.granularity} and {argument('rule')} {GAIN.rule}; "
                    f"{argument(part)} is {getattr(settings, part)}: leave one of them out"
                )
        return settings
    if settings.lifts:
        by = f"without {argument('aligned')}"
        if settings.aligned is not None:
            by = f"together with {argument('basis')} {settings.basis}"
        raise InputError(
            f"{argument(name)} is given {by}; it chooses for adapters of one lineage in their own factors, and the "
            f"share of lifted adapters is refined: give {argument('refine')} in place of {argument(name)}"
        )
    if settings.answers != ROWS:
        raise InputError(
            f"{argument('answers')} {settings.answers} is given together with {argument(name)}, which uses the "
            "answers of the rows; leave one of them out"
        )
    if settings.given_strength != 1:
        raise InputError(
            f"{argument('strength')} {settings.given_strength:g} is given together with {argument(name)}, which "
            f"chooses {argument('beta')} for a strength of 1; leave one of them out"
        )
    changes: dict[str, Any] = {name: getattr(GAIN, name) for name in _FIXED}
    return dataclasses.replace(settings, **changes)


def settle(settings: Settings, choice: Choice, data: CalibrationData, run: Run) -> tuple[Settings, dict[str, Any]]:
    """Choose what a run chooses by itself.

    Args:
      settings: of the run.
      choice: what is asked for, or was told before.
      data: calibration rows and base, with the open adapter files.
      run: the context, which receives the notes.

    Returns:
      The settings with what was chosen, and ``"automatic"`` or ``"refinement"`` for the record, empty without a
      choice.

    Raises:
      InputError: what ``choose_settings`` cannot use, or a description that no choice has.
    """
    told, found = choice.told, choice.refined
    for name in (HARMLESS, KEEP):
        if (place := getattr(settings, name)) is not None:
            run.digests.add_data(name, place)
    if choice.asked is not None:
        settings, told = choose_for(settings, choice.asked, data, run)
        run.stages.say(describe_choice(told))
    if choice.refinement is not None:
        try:
            settings, found = refined(settings, choice.refinement.bounds, data, run)
        except CannotRefine as error:
            if not choice.refinement.if_possible:
                raise
            run.notes.add([f"{error.marked}; the share of entries is used as it is"])
    described = {} if told is None else {"automatic": tell_choice(told, run)}
    if found is not None:
        data.in_halves = True
        run.notes.add(note_refinement(found))
        described["refinement"] = dict(found)
    return dataclasses.replace(settings, strength=settings.given_strength), described


def choose_for(
    settings: Settings, asked: AutomaticSettings, data: CalibrationData, run: Run
) -> tuple[Settings, dict[str, Any]]:
    """Choose β and sparsity; returns the settings with them and what the record says of it.

    Args:
      settings: of the run; see ``to_be_chosen``.
      asked: what is gone for.
      data: calibration rows and base, with the open adapter files.
      run: the context.

    Raises:
      InputError: what ``choose_settings`` cannot use.
    """
    from nlsr_jax.calibration.automatic import choose_settings
    from nlsr_jax.calibration.search import SearchSettings

    sources = data.sources
    weak = None if sources.weak is None else sources.weak.load()
    adapters = (sources.whole_finetuned(), sources.aligned.load(), weak)
    batches = data.batches()
    (model, params), other = data.base_with(sources.target), data.base_with(sources.aligned)
    search = SearchSettings(**dataclasses.asdict(asked))
    aligned_base = None if other[1] is params else other
    with run.stages("choose"):
        found = choose_settings(model, params, *adapters, batches, settings=search, aligned_base=aligned_base)
    chosen = found.chosen
    changes: dict[str, Any] = {"beta": chosen.beta, "sparsity": 1 - chosen.share}
    if not chosen.share:
        changes = {"rule": "least_similar", "share": 0.0}
    return dataclasses.replace(settings, **changes), _described(dataclasses.asdict(asked), found)


def _described(asked: Mapping[str, Any], found: "Automatic") -> dict[str, Any]:
    names = ("met", "aimed", "target", "finetuned", "aligned", "change", "unmeasured")
    described = {name: value for name, value in asked.items() if value is not None}
    described |= {name: getattr(found, name) for name in names}
    described |= {"chosen": found.chosen._asdict()}
    return described | {name: [one._asdict() for one in getattr(found, name)] for name in ("candidates", "trials")}


def tell_choice(described: Mapping[str, Any], run: Run) -> dict[str, Any]:
    """Note what is doubtful or worth knowing of a choice; returns its description with the doubts.

    Args:
      described: what the record says of it.
      run: the context, which receives the notes.

    Raises:
      InputError: a description, out of a record, that no choice has.
    """
    doubts = doubt_choice(described)
    described = {**described, "doubts": doubts}
    run.notes.warn(doubts)
    run.notes.add(note_choice(described))
    return described


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
    from nlsr_jax.calibration.search import SearchSettings, doubts

    try:
        chosen = described["chosen"]
        found = [one["divergence"] for one in described["candidates"] if _is(one, chosen)]
        divergence = min(found) if chosen["share"] and found else None
        disturbed = SearchSettings().disturbed
        return doubts(described["finetuned"], described["aligned"], divergence, disturbed)
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
