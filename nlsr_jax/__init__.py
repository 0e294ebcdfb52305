"""Neuron-level safety realignment of fine-tuned LoRA adapters, in JAX and Flax.

The method is a small set of pure functions over adapters, which are small pytrees of stacked LoRA
factors; see ``Adapter``. Files, models and commands are built around that core.

Each name is imported on first use; Flax, for example, is imported only when a model is used.
"""

from typing import TYPE_CHECKING

from nlsr_jax.lazy import lazily

if TYPE_CHECKING:
    from nlsr_jax.adapter import Adapter, check_adapter, concatenate, delta, truncate
    from nlsr_jax.calibration import collect_gradients, collect_loss_gradient, collect_statistics
    from nlsr_jax.errors import InputError
    from nlsr_jax.formats.mask_files import load_masks, save_masks
    from nlsr_jax.formats.peft import load_adapter, load_carried, save_adapter
    from nlsr_jax.formats.safety_direction import safety_direction
    from nlsr_jax.gate.running import check
    from nlsr_jax.models.carried import apply_carried
    from nlsr_jax.models.generate import generate
    from nlsr_jax.models.load import load_model
    from nlsr_jax.models.lora import logits
    from nlsr_jax.modules import MODULES
    from nlsr_jax.nlsr.amplify import amplify
    from nlsr_jax.nlsr.correction import correct
    from nlsr_jax.nlsr.direction import Direction
    from nlsr_jax.nlsr.identify import identify
    from nlsr_jax.nlsr.lift import Lifted, lift
    from nlsr_jax.nlsr.lineage import lineage, unrelated_modules
    from nlsr_jax.nlsr.low_rank import project_low_rank
    from nlsr_jax.nlsr.many import realign_many
    from nlsr_jax.nlsr.pruning import draw_pruned, pruning_probability
    from nlsr_jax.nlsr.realign import Realigned, realign
    from nlsr_jax.nlsr.settings import PUBLISHED, RECOMMENDED, RECOMMENDED_LINEAGE
    from nlsr_jax.nlsr.similarity import similarity
    from nlsr_jax.nlsr.statistics import Statistics, init_statistics, merge, statistics_from_activations
    from nlsr_jax.nlsr.update import factor_update

__version__ = "0.2.0"

__all__ = [
    "MODULES",
    "PUBLISHED",
    "RECOMMENDED",
    "RECOMMENDED_LINEAGE",
    "Adapter",
    "Direction",
    "InputError",
    "Lifted",
    "Realigned",
    "Statistics",
    "amplify",
    "apply_carried",
    "check",
    "check_adapter",
    "collect_gradients",
    "collect_loss_gradient",
    "collect_statistics",
    "concatenate",
    "correct",
    "delta",
    "draw_pruned",
    "factor_update",
    "generate",
    "identify",
    "init_statistics",
    "lift",
    "lineage",
    "load_adapter",
    "load_carried",
    "load_masks",
    "load_model",
    "logits",
    "merge",
    "project_low_rank",
    "pruning_probability",
    "realign",
    "realign_many",
    "safety_direction",
    "save_adapter",
    "save_masks",
    "similarity",
    "statistics_from_activations",
    "truncate",
    "unrelated_modules",
]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "nlsr_jax.adapter": "Adapter check_adapter concatenate delta truncate",
        "nlsr_jax.calibration": "collect_gradients collect_loss_gradient collect_statistics",
        "nlsr_jax.errors": "InputError",
        "nlsr_jax.formats.mask_files": "load_masks save_masks",
        "nlsr_jax.formats.peft": "load_adapter load_carried save_adapter",
        "nlsr_jax.formats.safety_direction": "safety_direction",
        "nlsr_jax.gate.running": "check",
        "nlsr_jax.models": "apply_carried generate load_model logits",
        "nlsr_jax.modules": "MODULES",
        "nlsr_jax.nlsr.amplify": "amplify",
        "nlsr_jax.nlsr.correction": "correct",
        "nlsr_jax.nlsr.direction": "Direction",
        "nlsr_jax.nlsr.identify": "identify",
        "nlsr_jax.nlsr.lift": "Lifted lift",
        "nlsr_jax.nlsr.lineage": "lineage unrelated_modules",
        "nlsr_jax.nlsr.low_rank": "project_low_rank",
        "nlsr_jax.nlsr.many": "realign_many",
        "nlsr_jax.nlsr.pruning": "draw_pruned pruning_probability",
        "nlsr_jax.nlsr.realign": "Realigned realign",
        "nlsr_jax.nlsr.settings": "PUBLISHED RECOMMENDED RECOMMENDED_LINEAGE",
        "nlsr_jax.nlsr.similarity": "similarity",
        "nlsr_jax.nlsr.statistics": "Statistics init_statistics merge statistics_from_activations",
        "nlsr_jax.nlsr.update": "factor_update",
    },
)
