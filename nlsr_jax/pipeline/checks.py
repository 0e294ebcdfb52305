"""The checks of a run's settings, before anything is read."""

from jax.sharding import Mesh

from nlsr_jax.errors import InputError, argument
from nlsr_jax.nlsr.pruning import check_rule
from nlsr_jax.nlsr.setting_checks import check_fields
from nlsr_jax.nlsr.settings import NEEDS_FINETUNED, ROWS, UPDATE_BASES
from nlsr_jax.pipeline.advice import FRESH_ADVICE
from nlsr_jax.pipeline.settings import Settings, SourceSettings


def check_realignment(settings: Settings) -> None:
    """Check everything of a realignment that can be checked without reading a file.

    Args:
      settings: the settings.

    Raises:
      InputError: naming the first setting that cannot be used.
    """
    if not settings.finetuned:
        raise InputError(f"{argument('finetuned')} is missing; give the PEFT directory of the finetuned adapter")
    if settings.as_adapter is not None:
        raise InputError(
            f"{argument('as_adapter')} is for full models; {settings.finetuned} is an adapter and is written as one"
        )
    if settings.aligned is None:
        _check_lift(settings)
    else:
        _check_no_direction(settings)
    if settings.lifts:
        _check_lifted_method(settings)
    elif settings.max_rank is not None:
        raise InputError(
            f"{argument('max_rank')} compresses lifted adapters, whose rank grows; here the output has the rank of "
            f"{argument('finetuned')}: leave it out, or give {argument('basis')} turned"
        )
    _check_values(settings)


def check_identification(settings: Settings) -> None:
    """Check the same of an identification, which has no fine-tuned adapter; see ``check_realignment``."""
    if not settings.aligned:
        raise InputError(
            f"{argument('aligned')} is missing; give the PEFT directory of the aligned adapter. Without one, nlsr "
            "realign finds masks together with the adapter that was trained on the aligned model"
        )
    _check_no_direction(settings)
    if settings.needs_finetuned:
        raise InputError(
            f"{argument('method')} {settings.method} compares with a fine-tuned adapter, which masks alone do not "
            "have; give it to nlsr realign"
        )
    _check_values(settings)


def check_stream(stream: bool, mesh: Mesh | None) -> None:
    """Check that a base that is read layer by layer is not laid over devices too.

    Raises:
      InputError: it is.
    """
    if stream and mesh is not None and mesh.size > 1:
        raise InputError(
            f"{argument('stream')} reads the base layer by layer on one device, and {argument('mesh')} lays all of "
            "it over several: leave one of them out"
        )


def _check_answers(answers: str, method: str, masks: str | None) -> None:
    """Refuse a choice of answers where none are read: another method than gain, or given masks."""
    if answers != ROWS and (method not in NEEDS_FINETUNED or masks is not None):
        given = argument("masks") if masks is not None else f"{argument('method')} {method}"
        raise InputError(
            f"{argument('answers')} {answers} needs {argument('method')} gain without {argument('masks')}, and "
            f"{given} is given; leave one of them out"
        )


def _check_values(settings: Settings) -> None:
    _check_answers(settings.answers, settings.method, settings.masks)
    if settings.needs_base:
        _check_base(settings)
    check_fields(settings)
    check_rule(settings.rule, settings.tau, settings.share, settings.layers)


def _check_no_direction(settings: SourceSettings) -> None:
    """Check that a run with an aligned adapter has no other direction."""
    if settings.pretrained or settings.direction_rank is not None:
        name = "pretrained" if settings.pretrained else "direction_rank"
        raise InputError(f"{argument(name)} is for adapters without {argument('aligned')}; leave one of them out")


def _check_base(settings: SourceSettings) -> None:
    """Check that base and calibration data are given."""
    for name in ("base", "calibration"):
        if not getattr(settings, name):
            raise InputError(
                f"{argument(name)} is missing; method {settings.method!r} needs it "
                f"(or give {argument('masks')}, or {argument('method')} magnitude or random)"
            )


def _check_lift(settings: SourceSettings) -> None:
    """Check the inputs of a run without an aligned adapter, whose base is the aligned model.

    Raises:
      InputError: what is missing, or has no meaning there.
    """
    if not settings.base and (settings.needs_base or settings.pretrained):
        raise InputError(
            f"{argument('aligned')} is missing, and so is {argument('base')}; give the PEFT directory of the "
            f"aligned adapter with its base. {FRESH_ADVICE}"
        )
    if settings.weak:
        raise InputError(
            f"{argument('weak')} is given without {argument('aligned')}; {argument('pretrained')} is the model "
            "that the base was aligned from"
        )
    if settings.pretrained is None and settings.direction_rank is not None:
        raise InputError(
            f"{argument('direction_rank')} is given without {argument('pretrained')}, whose difference to the base "
            "has it"
        )


def _check_lifted_method(settings: Settings) -> None:
    """Check the method where adapters are lifted.

    Raises:
      InputError: a setting that has no meaning there.
    """
    if settings.aligned is None and settings.pretrained is None and settings.beta:
        raise InputError(
            f"{argument('beta')} is {settings.beta:g}, and neither {argument('aligned')} nor "
            f"{argument('pretrained')} says in which direction: give one of them, or {argument('beta')} 0. "
            f"{FRESH_ADVICE}"
        )
    if settings.masks is None and not settings.beta and settings.method not in ("gain", "random"):
        raise InputError(
            f"{argument('method')} {settings.method} scores the entries of the reference, which are zero where "
            f"adapters are lifted and nothing is amplified: take {argument('method')} gain, or another "
            f"{argument('beta')} with {argument('aligned')} or {argument('pretrained')}"
        )
    where = (
        f"without {argument('aligned')}"
        if settings.aligned is None
        else f"with {argument('basis')} {settings.basis}"
    )
    for name, allowed in (
        ("amplification_space", ("factors",)),
        ("space", ("factors",)),
        ("basis", ("as_is", *UPDATE_BASES)),
    ):
        if getattr(settings, name) not in allowed:
            raise InputError(
                f"{argument(name)} is {getattr(settings, name)}; {where} expected {' or '.join(allowed)}"
            )
