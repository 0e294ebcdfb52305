"""The checks of the settings of a run on full weights, before anything is read."""

from nlsr_jax.errors import InputError, argument
from nlsr_jax.nlsr.pruning import check_rule
from nlsr_jax.nlsr.setting_checks import check_fields
from nlsr_jax.nlsr.settings import ROWS
from nlsr_jax.nlsr.weights import METHODS, SCORES_UPDATE
from nlsr_jax.pipeline.settings import Settings

_ONLY = {
    "amplification_space": "factors",
    "space": "factors",
    "basis": "as_is",
    "rank": None,
    "direction_rank": None,
    "answers": ROWS,
}
"""Settings that matrices do not have, and the values that say nothing."""
_COMPARING = ("probability", "threshold", "least_similar")


def check_weights(settings: Settings) -> None:
    """Check everything that can be checked without reading a file.

    Args:
      settings: of a run whose fine-tuned model is a full one.

    Raises:
      InputError: naming the first setting that cannot be used.
    """
    _check_models(settings)
    _check_method(settings)
    for name, allowed in _ONLY.items():
        if getattr(settings, name) != allowed:
            raise InputError(
                f"{argument(name)} is {getattr(settings, name)}, and concerns adapters; {settings.finetuned} is a "
                f"full model: leave {argument(name)} out"
            )
    check_fields(settings)
    check_rule(settings.rule, settings.tau, settings.share, settings.layers)


def _check_models(settings: Settings) -> None:
    for name in ("aligned", "weak"):
        if getattr(settings, name):
            raise InputError(
                f"{argument(name)} is given, and {settings.finetuned} is a full model: leave it out and give the "
                f"aligned model that it was trained from as {argument('base')}; merge the adapter into its base if "
                "that is what it was"
            )
    if not settings.base:
        raise InputError(
            f"{argument('base')} is missing; give the aligned model that {settings.finetuned} was trained from"
        )
    if settings.masks is None and settings.needs_data and not settings.calibration:
        raise InputError(
            f"{argument('calibration')} is missing; method {settings.method!r} needs it (or give "
            f"{argument('masks')}, or {argument('method')} random)"
        )


def _check_method(settings: Settings) -> None:
    if settings.method not in METHODS:
        raise InputError(
            f"{argument('method')} {settings.method} is for adapters; of full models expected one of "
            f"{', '.join(METHODS)}"
        )
    if settings.beta and not settings.pretrained:
        raise InputError(
            f"{argument('beta')} is {settings.beta:g}, and no {argument('pretrained')} says in which direction: "
            f"give the model that the base was aligned from, or {argument('beta')} 0"
        )
    if settings.beta:
        return
    if settings.masks is None and settings.method in SCORES_UPDATE:
        raise InputError(
            f"{argument('method')} {settings.method} scores the entries of the reference's update, which are zero "
            f"at {argument('beta')} 0: give {argument('pretrained')} and a {argument('beta')}, or take "
            f"{argument('method')} gain"
        )
    if settings.rule in _COMPARING:
        raise InputError(
            f"{argument('rule')} {settings.rule} compares updates of reference and fine-tuned model, and the "
            f"reference's is zero at {argument('beta')} 0: take {argument('rule')} all or layers"
        )
