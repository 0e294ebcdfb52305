"""A base with an adapter as the model provider ``nlsr`` of inspect_ai.

  inspect eval TASK.py --model nlsr/ADAPTER -M base=DIR

The entry point ``inspect_ai`` of the package registers the provider; JAX is imported when a model is opened.

Source: the provider ``hf`` of inspect_ai, whose prompts these are.
"""

from inspect_ai.model import ModelAPI, modelapi


@modelapi(name="nlsr")
def nlsr() -> type[ModelAPI]:
    """Return the class of the provider."""
    from nlsr_jax.harnesses.inspect_model import NlsrModel

    return NlsrModel
