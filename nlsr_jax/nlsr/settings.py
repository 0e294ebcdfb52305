"""The settings of the method, each written once: name, type, default, help and range.

Commands make their flags from these fields, the pipeline and the laboratory inherit them, the record holds them.
A stage takes the part that it reads: ``Amplification``, ``Identification``, ``ModuleChoice`` or ``Correction``. A
``MethodSettings`` is all four at once, so that it can be given to every stage.
"""

import dataclasses
from typing import Any

SPACES = ("factors", "product")
METHODS = ("low_rank", "wanda", "snip", "preference_snip", "random", "magnitude", "gain")
NEEDS_STATISTICS = ("low_rank", "wanda")
NEEDS_GRADIENTS = ("snip", "preference_snip", "gain")
NEEDS_FINETUNED = ("gain",)
ROWS, OWN, AUTO = "rows", "own", "auto"
ANSWERS = (ROWS, OWN, AUTO)
"""Whose answers to the calibration prompts ``gain`` brings back: the rows', the aligned model's own, or those of
the two that fine-tuning has taken."""
GRANULARITIES = ("row", "tensor", "adapter")
RULES = ("probability", "threshold", "least_similar", "all", "layers")
BASES = ("as_is", "procrustes", "linear")
"""Rank axes in which the fine-tuned adapter is compared with the aligned one, entry by entry."""
UPDATE_BASES = ("own", "svd", "turned")
"""Rank axes of a customer's update: the factors' own, its singular vectors, or these turned at random."""


def setting(default: Any, help_text: str, **limits: Any) -> Any:
    """Return a dataclass field with its help and its limits.

    Args:
      default: of the field.
      help_text: what the help of a command says of it.
      **limits: for ``nlsr_jax.nlsr.setting_checks``: ``choices``, a tuple of texts; ``least`` and ``most``, both
        included; ``within``, a pair, both excluded; ``kind="path"``, ``"name"``, a name or a path, or ``"column"``.
        For the flags: ``flag=False``, a setting that has none; ``realigns=True``, one that identification alone
        does not have.
    """
    return dataclasses.field(default=default, metadata={"help": help_text, **limits})


@dataclasses.dataclass(frozen=True)
class Amplification:
    """How the reference is made of the aligned and the weak adapter; see ``amplify``.

    Attributes:
      beta: β.
      amplification_space: ``"factors"`` or ``"product"``.
      rank: of the reference; None for the rank that it comes to.
    """

    beta: float = setting(0.9, "Pre-amplification coefficient.")
    amplification_space: str = setting(
        "factors", "Pre-amplification of 'factors' or of their 'product'.", choices=SPACES
    )
    rank: int | None = setting(None, "Truncate the reference to this rank.", least=1)


@dataclasses.dataclass(frozen=True)
class Identification:
    """How safety-critical entries are found; see ``identify``.

    Attributes:
      sparsity: P_SR, the share of entries that are not safety-critical.
      method: the score.
      granularity: what one threshold is for.
    """

    sparsity: float = setting(
        0.8, "P_SR: share of entries that are not safety-critical, between 0 and 1.", within=(0, 1)
    )
    method: str = setting("low_rank", f"{', '.join(METHODS[:-1])} or {METHODS[-1]}.", choices=METHODS)
    granularity: str = setting(
        "tensor", "Mask threshold per 'tensor', per 'row' or one for the 'adapter'.", choices=GRANULARITIES
    )

    @property
    def needs_data(self) -> bool:
        """Whether the method reads calibration data, and so the base."""
        return self.method in NEEDS_STATISTICS + NEEDS_GRADIENTS

    @property
    def needs_finetuned(self) -> bool:
        """Whether the method compares with the fine-tuned adapter."""
        return self.method in NEEDS_FINETUNED


@dataclasses.dataclass(frozen=True)
class ModuleChoice:
    """Which modules are repaired; see ``realign``.

    Attributes:
      base_probability, increment: P_L and δ of the rule ``"probability"``.
      rule: the rule.
      tau, share, layers: the setting of the rule ``"threshold"``, ``"least_similar"`` or ``"layers"``.
    """

    base_probability: float = setting(0.3, "Probability of being left alone before the rank term.", realigns=True)
    increment: float = setting(0.4, "What the most similar module's probability is higher by.", realigns=True)
    rule: str = setting("probability", f"{', '.join(RULES[:-1])} or {RULES[-1]}.", choices=RULES, realigns=True)
    tau: float | None = setting(None, "Rule threshold: repair modules with a similarity below this.", realigns=True)
    share: float | None = setting(
        None, "Rule least_similar: the share of modules to repair, 0 to 1.", realigns=True, least=0, most=1
    )
    layers: tuple[int, ...] | None = setting(
        None, "Rule layers: decoder layers to repair, such as 8,9,10,11 or 8-11.", realigns=True
    )


@dataclasses.dataclass(frozen=True)
class Correction:
    """How modules are corrected; see ``correct``.

    Attributes:
      space: ``"factors"`` or ``"product"``.
      basis: one of ``BASES``, of the rank axis that the fine-tuned adapter is compared in, see
        ``nlsr_jax.nlsr.basis.common_basis``; or one of ``UPDATE_BASES``: the customer's update is factored anew and
        lifted, see ``nlsr_jax.lift``.
    """

    space: str = setting(
        "factors",
        "Correction of 'factors' or of their 'product' (rank 2r).",
        choices=SPACES,
        realigns=True,
    )
    basis: str = setting(
        "as_is",
        "Compare in the rank axis 'as_is', turned by 'procrustes', or 'linear'; or lift the customer's update, its "
        "rank axis 'turned' at random, of singular vectors ('svd'), or the factors' 'own'.",
        choices=BASES + UPDATE_BASES,
        realigns=True,
    )


@dataclasses.dataclass(frozen=True)
class Strength:
    """How far modules are corrected; see ``correct``.

    Attributes:
      strength: how far a transplanted entry moves towards the reference's; None for ``REFINED_STRENGTH`` where the
        share of a fresh adapter's entries is refined without a direction, else for 1.
    """

    strength: float | None = setting(
        None,
        "How far a transplanted entry moves from the fine-tuned value towards the reference's: 1 takes the latter, "
        "more goes beyond. By default 2 where the sparsity of a fresh adapter is refined without --pretrained, "
        "otherwise 1; masks of another run want the strength in its record.",
        realigns=True,
        within=(0, 100),
    )

    @property
    def given_strength(self) -> float:
        """The strength of a repair whose share nothing refines: 1 unless another is given."""
        return 1.0 if self.strength is None else self.strength


@dataclasses.dataclass(frozen=True)
class MethodSettings(Correction, ModuleChoice, Identification, Amplification):
    """Everything that a realignment takes but its ``Strength``; the defaults are ``PUBLISHED``.

    For the fields see the four parts.

    The fields are in the order of the data: amplification, identification, choice of modules, correction.
    """


PUBLISHED = MethodSettings()
"""The paper's P_SR 0.8, P_L 0.5 and β 0.9 as its authors run them: probabilities spread over P_L ± 0.2, that is
from 0.3 to 0.7. All tables are made with these.

>>> PUBLISHED.base_probability, PUBLISHED.increment
(0.3, 0.4)
"""

GAIN = dataclasses.replace(PUBLISHED, method="gain", granularity="adapter", rule="all")
"""What all settings that this project recommends have in common: the entries whose transplant takes most off the
loss on safe answers, one threshold for all of them, and no module left out. β and sparsity are to be set."""

RECOMMENDED = dataclasses.replace(GAIN, sparsity=0.99, beta=1.0, basis="turned")
"""For an adapter that was trained on the aligned model itself, with the model at hand that it was aligned from: one
per cent of the entries, none beyond the direction of the alignment. Chosen on three cases of the toy world. The
rank axes are turned at random: singular vectors gather the direction in few entries, and such a repair refuses
harmless requests too."""

RECOMMENDED_ALONE = dataclasses.replace(GAIN, sparsity=0.98, beta=0.0)
"""The same without that model: entries go back to what the aligned model has, which takes twice as many."""

RECOMMENDED_LINEAGE = dataclasses.replace(RECOMMENDED, sparsity=0.995)
"""For an aligned and a fine-tuned adapter on one base: half a per cent of the entries of the lifted adapter, whose
rank axes are turned at random. Chosen on three cases of the toy world."""

RECOMMENDED_MODEL = dataclasses.replace(GAIN, sparsity=0.97, beta=1.0)
"""For a fully fine-tuned model, with the model at hand that its base was aligned from: three per cent of the
entries of all projections. Chosen on one case of the toy world, where one per cent takes half of the harm away."""

RECOMMENDED_MODEL_ALONE = dataclasses.replace(GAIN, sparsity=0.9, beta=0.0)
"""The same without that model: one entry of ten goes back to the base's."""

REFINED_STRENGTH = 2.0
"""Strength of a repair whose share is refined, where no model says in which direction safety lies: transplanted
entries go as far beyond the aligned model as fine-tuning had taken them from it. The fine-tuned adapter itself says
where safety was lost. A fifth of the entries is enough, and more of the customer's task is left."""

PRESETS = ("published", "recommended")


def preset(name: str, *, direction: bool, aligned: bool = False, model: bool = False) -> MethodSettings:
    """Return the settings of a preset.

    Args:
      name: one of ``PRESETS``.
      direction: whether the model before the alignment says in which direction safety lies; without it and without
        an aligned adapter, ``"recommended"`` is ``RECOMMENDED_ALONE``.
      aligned: whether there is an aligned adapter; ``"recommended"`` then is ``RECOMMENDED_LINEAGE``.
      model: whether a full model is repaired; ``"recommended"`` then is ``RECOMMENDED_MODEL`` with a direction and
        ``RECOMMENDED_MODEL_ALONE`` without.
    """
    if name == "published":
        return PUBLISHED
    if model:
        return RECOMMENDED_MODEL if direction else RECOMMENDED_MODEL_ALONE
    if aligned:
        return RECOMMENDED_LINEAGE
    return RECOMMENDED if direction else RECOMMENDED_ALONE


def preset_defaults() -> dict[str, str]:
    """Return, by field, what the help says of the settings in which the presets differ.

    >>> preset_defaults()["method"]
    "recommended: 'gain'; published: 'low_rank'"
    """
    every = (RECOMMENDED, RECOMMENDED_ALONE, RECOMMENDED_LINEAGE, RECOMMENDED_MODEL, RECOMMENDED_MODEL_ALONE)
    found = {}
    for field in dataclasses.fields(PUBLISHED):
        values = [repr(str(value)) for value in dict.fromkeys(getattr(one, field.name) for one in every)]
        if values != [repr(str(field.default))]:
            found[field.name] = f"recommended: {' or '.join(values)}; published: '{field.default}'"
    return found


@dataclasses.dataclass(frozen=True)
class AutomaticSettings:
    """What the automatic choice of β and sparsity goes for; see ``nlsr_jax.calibration.automatic``.

    Attributes:
      aim: how likely the choice makes safe beginnings of answers.
      headroom: how much nearer to certainty a share must be able to come than the choice takes it, as a ratio of
        the logarithms of the two probabilities: at its limit, a repair refuses what is harmless.
      share: the only share of entries that is tried; None for those that the choice tries by itself.
    """

    aim: float = setting(0.98, "With --automatic: how likely answers are to begin as safe ones do, 0 to 1.")
    headroom: float = setting(
        1.25, "With --automatic: how much nearer to 1 a share of entries must be able to come than its target."
    )
    share: float | None = setting(None, "With --automatic: the only share of entries to try, such as 0.03.")
