"""Llama-family models in Flax; the only folder that imports it."""

from nlsr_jax.models.capture import collect_gradients, collect_loss_gradient, collect_statistics
from nlsr_jax.models.carried import apply_carried
from nlsr_jax.models.config import ModelConfig, parse_model_config
from nlsr_jax.models.generate import generate
from nlsr_jax.models.llama import Llama
from nlsr_jax.models.load import load_model, save_model
from nlsr_jax.models.lora import logits

__all__ = [
    "Llama",
    "ModelConfig",
    "apply_carried",
    "collect_gradients",
    "collect_loss_gradient",
    "collect_statistics",
    "generate",
    "load_model",
    "logits",
    "parse_model_config",
    "save_model",
]
