"""Models that see or hear, whose language model has a config of its own inside theirs.

Their text alone goes through the language model as it goes through the same model by itself.

Source: transformers' ``LlavaConfig``, ``Gemma3Config``, ``Mistral3Config`` and their kin.
"""

from typing import NamedTuple

from nlsr_jax.architecture.fields import check_architectures, short
from nlsr_jax.architecture.quantisation import FIELD as QUANTISATION
from nlsr_jax.errors import InputError, UnsupportedModel


class Outer(NamedTuple):
    """A model around a language model.

    Attributes:
      text: ``model_type`` of the language model where ``text_config`` does not say it.
      tied: default of ``tie_word_embeddings``, which the outer config decides.
      architectures: class names that ``config.json`` may give.
      either: whether the field in ``text_config`` ties the head too.
    """

    text: str
    tied: bool
    architectures: tuple[str, ...]
    either: bool = False


OUTER = {
    "gemma3": Outer("gemma3_text", True, ("Gemma3ForConditionalGeneration", "Gemma3Model")),
    "llava": Outer("llama", False, ("LlavaForConditionalGeneration", "LlavaModel"), either=True),
    "llava_next": Outer("llama", False, ("LlavaNextForConditionalGeneration", "LlavaNextModel")),
    "mistral3": Outer("mistral", True, ("Mistral3ForConditionalGeneration", "Mistral3Model")),
    "internvl": Outer("qwen2", True, ("InternVLForConditionalGeneration", "InternVLModel")),
}
"""By ``model_type``."""
PREFIXES = ("language_model.model.", "model.language_model.", "language_model.")
"""What files put before the names of the language model's weights."""


def text_part(config: dict, where: str) -> tuple[dict, bool]:
    """Return the config of the language model, and whether it was inside another.

    Args:
      config: the JSON object of a ``config.json``.
      where: its file, for messages.

    Raises:
      InputError: a nested config that is no object, or of a model around it that is not known.
    """
    kind = config.get("model_type")
    outer = OUTER.get(kind) if isinstance(kind, str) else None
    if outer is None:
        if isinstance(config.get("text_config"), dict):
            raise UnsupportedModel(
                f"{where}: model_type is {short(kind)}, whose text_config is nested; of such models those of "
                f"{', '.join(OUTER)} are supported"
            )
        return config, False
    text = config.get("text_config")
    if not isinstance(text, dict):
        raise InputError(f"{where}: text_config is {short(text)}; expected the config of the language model")
    check_architectures(config, outer.architectures, where)
    found = {"model_type": outer.text, **text}
    found.pop("architectures", None)
    tied = config.get("tie_word_embeddings", outer.tied)
    if outer.either and not tied:
        tied = found.get("tie_word_embeddings")
    if config.get(QUANTISATION):
        found[QUANTISATION] = config[QUANTISATION]
    return {**found, "tie_word_embeddings": tied}, True
