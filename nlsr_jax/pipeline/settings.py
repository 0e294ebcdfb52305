"""The settings of a realignment run, checked before anything is read."""

import dataclasses
import math
import os
import pathlib
from typing import Any

from nlsr_jax.data.templates import TEMPLATES
from nlsr_jax.errors import InputError
from nlsr_jax.files.paths import exists, expand_text
from nlsr_jax.files.values import convert
from nlsr_jax.nlsr.amplify import SPACES
from nlsr_jax.nlsr.basis import BASES
from nlsr_jax.nlsr.identify import METHODS, NEEDS_FINETUNED, NEEDS_GRADIENTS, NEEDS_STATISTICS, check_sparsity
from nlsr_jax.nlsr.masks import GRANULARITIES
from nlsr_jax.nlsr.pruning import check_rule
from nlsr_jax.nlsr.settings import PUBLISHED
from nlsr_jax.pipeline.advice import FRESH_ADVICE

DTYPES = ("float32", "bfloat16", "float16")


@dataclasses.dataclass(frozen=True)
class Settings:
    """All that decides the result of a run; every field is kept in the record.

    Attributes:
      base: Hugging Face directory or hub id; needed unless masks are given or ``method`` needs no data.
      aligned, finetuned, weak: PEFT directories.
      calibration: rows with ``prompt`` and ``response`` (and ``rejected`` for preference SNIP), or in another shape
        that ``nlsr_jax.data.answered`` reads.
      prompt_field, response_field, rejected_field: the columns of the calibration rows; None for those to be found.
      pretrained: the model that the base was aligned from, where ``aligned`` is None: then the base is the aligned
        model, and the adapters are lifted; see ``nlsr_jax.lift``.
      direction_rank: rank of the direction base − pretrained; None for the fine-tuned adapter's.
      masks: a ``masks.safetensors`` to use in place of identification.
      seed: of the run's PRNG key.
      beta, amplification_space, rank: pre-amplification.
      sparsity, method, granularity: identification.
      base_probability, increment, rule, tau, share, layers: the choice of modules.
      space: of the correction.
      basis: of the rank axis that the fine-tuned adapter is compared in; see ``common_basis``.
      batch_size, max_length, template, dtype: the calibration pass.
      end_token: calibration responses end with the end token, as they do in training; without in older records.
      allow_unrelated: go on although modules do not share a lineage.
    """

    base: str | None = None
    aligned: str | None = None
    finetuned: str | None = None
    weak: str | None = None
    calibration: str | None = None
    pretrained: str | None = None
    direction_rank: int | None = None
    masks: str | None = None
    seed: int = 0
    beta: float = PUBLISHED.beta
    amplification_space: str = PUBLISHED.amplification_space
    rank: int | None = None
    sparsity: float = PUBLISHED.sparsity
    method: str = PUBLISHED.method
    granularity: str = PUBLISHED.granularity
    base_probability: float = PUBLISHED.base_probability
    increment: float = PUBLISHED.increment
    rule: str = PUBLISHED.rule
    tau: float | None = PUBLISHED.tau
    share: float | None = PUBLISHED.share
    layers: tuple[int, ...] | None = PUBLISHED.layers
    space: str = PUBLISHED.space
    basis: str = PUBLISHED.basis
    batch_size: int = 16
    max_length: int = 512
    template: str = "none"
    dtype: str = "float32"
    end_token: bool = True
    allow_unrelated: bool = False
    prompt_field: str | None = None
    response_field: str | None = None
    rejected_field: str | None = None

    @property
    def needs_base(self) -> bool:
        """Whether the base model and calibration data are read."""
        return self.masks is None and self.method in NEEDS_STATISTICS + NEEDS_GRADIENTS

    @property
    def lifts(self) -> bool:
        """Whether the base is the aligned model, and the adapters of the run are lifted."""
        return self.aligned is None


PATHS = ("base", "aligned", "finetuned", "weak", "pretrained", "calibration", "masks")


def name_inputs(settings: Settings) -> dict[str, str | None]:
    """Return the inputs of the settings by the flags that give them."""
    return {f"--{name}": getattr(settings, name) for name in PATHS}


def with_absolute_paths(settings: Settings) -> Settings:
    """Return the settings with absolute local paths, so that a record can be repeated from anywhere."""
    values = {name: getattr(settings, name) for name in PATHS}
    given = {name: expand_text(os.fspath(value)) for name, value in values.items() if value}
    local: dict[str, Any] = {n: str(pathlib.Path(v).absolute()) if exists(v) else v for n, v in given.items()}
    return dataclasses.replace(settings, **local)


def check_settings(settings: Settings, *, realign: bool = True) -> None:
    """Check everything that can be checked without reading a file.

    Args:
      settings: the settings.
      realign: False for identification alone (no fine-tuned adapter).

    Raises:
      InputError: naming the first setting that cannot be used.
    """
    _check_inputs(settings, realign)
    _check_choices(settings)
    check_sparsity(settings.sparsity)
    check_rule(settings.rule, settings.tau, settings.share, settings.layers)
    for name in ("beta", "base_probability", "increment", "tau"):
        value = getattr(settings, name)
        if value is not None and not math.isfinite(value):
            raise InputError(f"--{name} is {value}; expected a finite number")
    for name in ("prompt_field", "response_field", "rejected_field"):
        if getattr(settings, name) == "":
            raise InputError(f"--{name} is empty; give the name of a column, or leave it out")
    for name, least in (("batch_size", 1), ("max_length", 2), ("rank", 1), ("direction_rank", 1)):
        value = getattr(settings, name)
        if value is not None and value < least:
            raise InputError(f"--{name} is {value}; expected at least {least}")
    if not 0 <= settings.seed < 2**32:
        raise InputError(f"--seed is {settings.seed}; expected 0 to 4294967295")


def _check_inputs(settings, realign):
    needed = "finetuned" if realign else "aligned"
    if not getattr(settings, needed):
        raise InputError(f"--{needed} is missing; give the PEFT directory of the {needed} adapter")
    if realign and settings.lifts:
        _check_lift(settings)
    elif settings.pretrained or settings.direction_rank is not None:
        name = "pretrained" if settings.pretrained else "direction_rank"
        raise InputError(f"--{name} is for adapters without --aligned; leave one of them out")
    if not realign and settings.method in NEEDS_FINETUNED:
        raise InputError(
            f"--method {settings.method} compares with a fine-tuned adapter, which masks alone do not have; "
            "give it to nlsr realign"
        )
    if settings.needs_base:
        for name in ("base", "calibration"):
            if not getattr(settings, name):
                raise InputError(
                    f"--{name} is missing; method {settings.method!r} needs it "
                    "(or give --masks, or --method magnitude or random)"
                )


def _check_lift(settings) -> None:
    """Check what concerns a run without an aligned adapter, whose base is the aligned model.

    Raises:
      InputError: what is missing, or has no meaning where the aligned adapter is zero.
    """
    if not settings.base and (settings.needs_base or settings.pretrained):
        raise InputError(f"--aligned is missing; give the PEFT directory of the aligned adapter. {FRESH_ADVICE}")
    if settings.weak:
        raise InputError(
            "--weak is given without --aligned; --pretrained is the model that the base was aligned from"
        )
    if settings.pretrained is None:
        if settings.direction_rank is not None:
            raise InputError("--direction_rank is given without --pretrained, whose difference to the base has it")
        if settings.beta:
            raise InputError(
                f"--beta is {settings.beta:g}, and neither --aligned nor --pretrained says in which direction: "
                f"give one of them, or --beta 0. {FRESH_ADVICE}"
            )
    if settings.masks is None and not settings.beta and settings.method not in ("gain", "random"):
        raise InputError(
            f"--method {settings.method} scores the entries of the reference, which are zero where the base "
            "itself is the aligned model and nothing is amplified: give --aligned, or take --method gain"
        )
    for name, allowed in (("amplification_space", "factors"), ("space", "factors"), ("basis", "as_is")):
        if getattr(settings, name) != allowed:
            raise InputError(f"--{name} is {getattr(settings, name)}; without --aligned expected {allowed}")


def _check_choices(settings):
    choices = {
        "method": METHODS,
        "granularity": GRANULARITIES,
        "space": SPACES,
        "basis": BASES,
        "amplification_space": SPACES,
        "template": TEMPLATES,
        "dtype": DTYPES,
    }
    for name, allowed in choices.items():
        if getattr(settings, name) not in allowed:
            raise InputError(f"--{name} is {getattr(settings, name)!r}; expected one of {', '.join(allowed)}")


def from_record(stored: dict, where: str) -> Settings:
    """Rebuild settings from a record.

    Raises:
      InputError: a setting that this version does not know, or of another type.
    """
    known = {field.name: field.type for field in dataclasses.fields(Settings)}
    unknown = sorted(set(stored) - set(known))
    if unknown:
        raise InputError(f"{where}: unknown setting {unknown[0]!r}; the record is of another version")
    stored = {"end_token": False, **stored}  # records made before there was this setting
    try:
        return Settings(**{name: convert(repr(name), value, known[name]) for name, value in stored.items()})
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
