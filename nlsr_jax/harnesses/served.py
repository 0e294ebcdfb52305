"""A base with an adapter, loaded as an evaluation harness needs it."""

import dataclasses
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp

from nlsr_jax.adapter import Adapter
from nlsr_jax.data.calibration import load_tokenizer
from nlsr_jax.data.encoding import note_surplus
from nlsr_jax.errors import InputError, argument
from nlsr_jax.files.json_files import read_json_object
from nlsr_jax.formats import hugging_face
from nlsr_jax.formats.carried_fit import note_left_out
from nlsr_jax.formats.peft import open_fitting
from nlsr_jax.models.carried import apply_carried
from nlsr_jax.models.load import load_model
from nlsr_jax.pipeline.base_names import named_base, note_bases
from nlsr_jax.types import Params, Tokenizer

if TYPE_CHECKING:
    from nlsr_jax.models.llama import Llama

DEFAULT_LENGTH = 2048
"""Context length of a model whose files name none, as in lm-evaluation-harness."""
_LENGTHS = ("n_positions", "max_position_embeddings", "n_ctx")
_NO_LENGTH = 10**9
"""A tokenizer without a longest text names a larger number."""
_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Served:
    """A loaded base with its adapter.

    Attributes:
      model, params: from ``load_model``, with what the adapter carries beside its factors.
      tokenizer: a transformers tokenizer.
      adapter: LoRA adapter; None for the base alone.
      base: where the base comes from.
      adapter_path: where the adapter comes from; None for the base alone.
      max_length: context length in tokens.
    """

    model: "Llama"
    params: Params
    tokenizer: Tokenizer
    adapter: Adapter | None
    base: str
    adapter_path: str | None
    max_length: int


def open_served(
    base: str | None = None,
    adapter: str | None = None,
    *,
    tokenizer: str | None = None,
    dtype: str = "float32",
    attention: str = "plain",
    max_length: int | None = None,
    note: Callable[[str], None] = _LOG.warning,
) -> Served:
    """Load a base with an adapter.

    Args:
      base: Hugging Face directory or hub id; None for the base that the adapter names.
      adapter: PEFT directory or hub id; None for the base alone.
      tokenizer: directory of the tokenizer; None for the base's.
      dtype: float type of the base's weights.
      attention: see ``load_model``.
      max_length: context length in tokens; None for the one that the model's files name.
      note: called with one line for everything that is odd about the files.

    Raises:
      InputError: files that cannot be used, or no base.
    """
    place = base or (named_base(adapter) if adapter else None)
    if place is None:
        raise InputError(f"{argument('base')} is missing; give the folder or hub id of the base model")
    if max_length is not None and max_length < 2:
        raise InputError(f"max_length is {max_length}; expected at least 2 tokens")
    folder = hugging_face.resolve(place)
    file = open_fitting(adapter, hugging_face.read_config(folder)) if adapter else None
    loaded = load_tokenizer(tokenizer or str(folder))
    model, params = load_model(folder, dtype=_dtype(dtype), attention=attention, note=note)
    if file is not None:
        named = {argument("base"): place, str(adapter): file.layout.config.get("base_model_name_or_path")}
        for text in [*note_bases(named), *note_left_out(file.carried, model.config, str(adapter))]:
            note(text)
        model, params = apply_carried(model, params, file.carried)
    for text in note_surplus(loaded, model.config.vocab_size):
        note(f"{place}: {text}")
    return Served(
        model,
        params,
        loaded,
        file.load() if file is not None else None,
        place,
        adapter,
        max_length or context_length(read_json_object(folder / hugging_face.CONFIG, "model config"), loaded),
    )


def _dtype(name: str) -> Any:
    try:
        return jnp.dtype(name)
    except TypeError as error:
        raise InputError(f"dtype is {name!r}; expected float32, bfloat16 or float16") from error


def context_length(config: dict[str, Any], tokenizer: Tokenizer) -> int:
    """Return how many tokens a model reads at most.

    Args:
      config: the JSON object of its ``config.json``.
      tokenizer: asked where the config names no length.

    Source: ``resolve_max_length`` of lm-evaluation-harness.

    >>> context_length({"max_position_embeddings": 64}, None)
    64
    """
    inner = config.get("text_config")
    fields = inner if isinstance(inner, dict) else config
    found = next((fields[name] for name in _LENGTHS if isinstance(fields.get(name), int)), None)
    if found is None:
        found = getattr(tokenizer, "model_max_length", None)
    return found if found is not None and found < _NO_LENGTH else DEFAULT_LENGTH
