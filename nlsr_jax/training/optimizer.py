"""AdamW with warm-up and a schedule."""

import optax

from nlsr_jax.training.settings import TrainingSettings


def learning_rate(settings: TrainingSettings, steps: int) -> optax.Schedule:
    """Return the learning rate of each of ``steps`` optimiser steps."""
    warmup = round(settings.warmup * steps) if settings.warmup < 1 else int(settings.warmup)
    rest = max(steps - warmup, 1)
    after = {
        "cosine": optax.cosine_decay_schedule(settings.learning_rate, rest),
        "linear": optax.linear_schedule(settings.learning_rate, 0.0, rest),
        "constant": optax.constant_schedule(settings.learning_rate),
    }[settings.schedule]
    if not warmup:
        return after
    # The warm-up starts above zero, because a zero rate would waste the first step.
    rise = optax.linear_schedule(settings.learning_rate / warmup, settings.learning_rate, max(warmup - 1, 1))
    return optax.join_schedules([rise, after], [warmup])


def make_optimizer(settings: TrainingSettings, steps: int) -> optax.GradientTransformation:
    """Return AdamW (β₁ 0.9, β₂ 0.999) after clipping the gradient's global norm."""
    adamw = optax.adamw(learning_rate(settings, steps), weight_decay=settings.weight_decay)
    return optax.chain(optax.clip_by_global_norm(settings.clip), adamw) if settings.clip else adamw
