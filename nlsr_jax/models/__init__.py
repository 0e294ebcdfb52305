"""Language models in Flax; the only folder that imports it."""

from nlsr_jax.models.carried import apply_carried
from nlsr_jax.models.generate import generate
from nlsr_jax.models.llama import Llama
from nlsr_jax.models.load import load_model, save_model, stream_model
from nlsr_jax.models.lora import logits

__all__ = ["Llama", "apply_carried", "generate", "load_model", "logits", "save_model", "stream_model"]
