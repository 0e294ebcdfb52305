"""Settings of a training run, checked before anything is read."""

import dataclasses
import math
from typing import Any

from nlsr_jax.errors import InputError
from nlsr_jax.modules import FUSED, MODULES

OBJECTIVES = ("sft", "dpo", "orpo", "kto", "simpo")
_BETA = {"sft": 0.0, "dpo": 0.1, "orpo": 0.1, "kto": 0.1, "simpo": 2.0}


@dataclasses.dataclass(frozen=True)
class TrainingSettings:
    """Hyperparameters and options of a training run.

    Attributes:
      objective: one of ``OBJECTIVES``.
      learning_rate: peak learning rate.
      epochs: number of passes through the rows.
      batch_size: rows per optimiser step.
      accumulate: number of parts a batch is split into; the gradient is still that of the whole batch. KTO, whose
        z is a mean over the whole batch, needs one more forward pass over the parts.
      warmup: linear warm-up: a share of all steps if below 1, else a number of steps.
      schedule: ``"cosine"`` to zero, ``"linear"`` to zero or ``"constant"`` after the warm-up.
      weight_decay: AdamW's weight decay.
      clip: maximum global norm of the gradient; 0 to disable clipping.
      beta: β of the preference objective; None for its default (0.1, SimPO 2).
      gamma: SimPO's target margin.
      loss: mean of the SFT loss: ``"token"`` over all response tokens of a batch, ``"sequence"`` over the
        per-row means. With the token mean, long responses outweigh one-word labels.
      max_length: longest text in tokens.
      one_length: pad all batches to one length, so that there is one compiled step.
      remat: recompute a layer's activations in the backward pass instead of storing them.
      compute_dtype: dtype of the forward and backward pass; adapter and optimiser stay float32.
      save_every: steps between checkpoints; 0 to save only at the end.
    """

    objective: str = "sft"
    learning_rate: float = 2e-6
    epochs: int = 3
    batch_size: int = 8
    accumulate: int = 1
    warmup: float = 0.0
    schedule: str = "cosine"
    weight_decay: float = 0.0
    clip: float = 1.0
    beta: float | None = None
    gamma: float = 1.0
    loss: str = "token"
    max_length: int = 1024
    one_length: bool = False
    remat: bool = False
    compute_dtype: str = "float32"
    save_every: int = 100

    @property
    def preference_beta(self) -> float:
        """The effective β."""
        return _BETA[self.objective] if self.beta is None else self.beta


@dataclasses.dataclass(frozen=True)
class LoraSettings:
    """A new LoRA adapter.

    Attributes:
      rank: r.
      alpha: ``lora_alpha``; the scaling is ``alpha / rank``.
      modules: target projections; a fused one is adapted where one of its parts is named, or itself.
    """

    rank: int = 128
    alpha: float = 256.0
    modules: tuple[str, ...] = MODULES


def check_training(settings: TrainingSettings) -> None:
    """Raise InputError, naming the field, if settings are invalid."""
    choices = {
        "objective": OBJECTIVES,
        "schedule": ("cosine", "linear", "constant"),
        "loss": ("token", "sequence"),
        "compute_dtype": ("float32", "bfloat16", "float16"),
    }
    for name, allowed in choices.items():
        if getattr(settings, name) not in allowed:
            raise InputError(f"{name} is {getattr(settings, name)!r}; expected one of {', '.join(allowed)}")
    for name, least in {"epochs": 1, "batch_size": 1, "accumulate": 1, "max_length": 2, "save_every": 0}.items():
        value: Any = getattr(settings, name)
        if not isinstance(value, int) or value < least:
            raise InputError(f"{name} is {value!r}; expected a whole number, at least {least}")
    for name in ("learning_rate", "warmup", "weight_decay", "clip", "gamma"):
        value = getattr(settings, name)
        if not math.isfinite(value) or value < 0 or (name == "learning_rate" and value == 0):
            wanted = "above 0" if name == "learning_rate" else "of 0 or more"
            raise InputError(f"{name} is {value}; expected a number {wanted}")
    if settings.objective != "sft" and not (
        math.isfinite(settings.preference_beta) and settings.preference_beta > 0
    ):
        raise InputError(f"beta is {settings.beta}; expected a number above 0")
    if settings.batch_size % settings.accumulate:
        raise InputError(
            f"batch_size {settings.batch_size} cannot be split into {settings.accumulate} equal parts (accumulate)"
        )


def check_lora(settings: LoraSettings) -> None:
    """Raise InputError, naming the field, if adapter settings are invalid."""
    known = (*MODULES, *FUSED)
    unknown = [module for module in settings.modules if module not in known]
    if unknown or not settings.modules:
        raise InputError(
            f"modules are {', '.join(settings.modules) or 'none'}; expected some of {', '.join(known)}"
        )
    if settings.rank < 1:
        raise InputError(f"rank is {settings.rank}; expected at least 1")
    if not (math.isfinite(settings.alpha) and settings.alpha > 0):
        raise InputError(f"alpha is {settings.alpha}; expected a number above 0")
