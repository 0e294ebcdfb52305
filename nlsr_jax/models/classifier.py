"""Sequence classifiers on a Llama decoder: a linear head on the last token's final-norm state.

Axis legend: B batch, T positions, D embed, C classes.
"""

import dataclasses
import functools
import os
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from nlsr_jax.architecture.config import ModelConfig, parse_model_config
from nlsr_jax.architecture.fields import short
from nlsr_jax.errors import InputError, one_line
from nlsr_jax.files.json_files import read_json_object
from nlsr_jax.files.safetensors_files import SafetensorsFile
from nlsr_jax.formats import hugging_face as files_of
from nlsr_jax.models.llama import Llama
from nlsr_jax.models.load import _float_type, warn
from nlsr_jax.models.lora import check_tokens
from nlsr_jax.types import Array, Params

ARCHITECTURES = ("LlamaForSequenceClassification", "LlamaModelForScore", "LlamaForScore")
_HEADS = ("score.weight", "score_head.weight")
_NORMALIZER = "normalizer."


class Classifier(nn.Module):
    """A Llama decoder with a bias-free linear head.

    Attributes:
      config: the decoder's shapes and settings (``tied``, so that it has no language-model head).
      labels: the C class names, in the head's order.
    """

    config: ModelConfig
    labels: tuple[str, ...]

    @nn.compact
    def __call__(self, tokens: jax.Array, attention_mask: jax.Array) -> jax.Array:
        """Return ``[B, C]`` float32 logits of ``[B, T]`` tokens, read at each row's last unmasked position."""
        hidden = Llama(self.config, name="llama")(tokens, attention_mask, output="hidden")
        places = jnp.arange(tokens.shape[1])
        last = jnp.max(jnp.where(attention_mask, places, 0), axis=-1)
        pooled = jnp.take_along_axis(hidden, last[:, None, None], axis=1)[:, 0]
        shape = (len(self.labels), self.config.hidden_size)
        head = self.param("score", nn.initializers.normal(0.02), shape)
        return jnp.einsum("bd,cd->bc", pooled, head, preferred_element_type=jnp.float32)


def load_classifier(
    path: str | os.PathLike,
    dtype: Any = jnp.float32,
    mesh: Mesh | None = None,
    *,
    note: Callable[[str], None] = warn,
) -> tuple[Classifier, Params]:
    """Load a Llama sequence classifier.

    Args:
      path: Hugging Face directory or hub id. Its architecture is transformers' sequence classifier (head
        ``score.weight``) or safe-rlhf's score model (head ``score_head.weight``), both without bias.
      dtype: float type of the weights: float32, bfloat16 or float16.
      mesh: lay the weights out over this mesh.
      note: called with one line for everything that is odd about the files; see ``load_model``.

    Returns:
      ``(classifier, params)``; see ``classify``.

    Raises:
      InputError: another kind of model, or files that are missing or damaged.
    """
    dtype = _float_type(dtype)
    model, table, found, notes = _open(path)
    for text in notes:
        note(one_line(text))
    tree: dict = {}
    for weight in table:
        node = tree
        for name in weight.path[:-1]:
            node = node.setdefault(name, {})
        node[weight.path[-1]] = files_of._read(weight, found, jnp.dtype(dtype), mesh)
    return model, {"score": tree.pop("score"), "llama": tree}


def open_classifier(path: str | os.PathLike) -> Classifier:
    """Check a sequence classifier's files and return it without reading its weights; see ``load_classifier``."""
    return _open(path)[0]


def _open(path):
    """Return the classifier, the table of its weights, where each of them lies, all checked, and notes."""
    folder = files_of.resolve(path)
    where = str(folder / files_of.CONFIG)
    fields = read_json_object(folder / files_of.CONFIG, "model config")
    config = _decoder_config(fields, where)
    files, head, notes = _locate(folder, where)
    labels = _labels(fields, files[head].shape(head), where)
    table = [
        *files_of.weight_table(config),
        files_of.Weight(("score",), (head,), (len(labels), config.hidden_size)),
    ]
    found = files_of._match_names(folder, files_of._plain_names(files), table, config)
    for weight in table:
        files_of._check_weight(weight, found)
    return Classifier(config, labels), table, found, notes


def _decoder_config(fields, where) -> ModelConfig:
    """Return the config of the decoder alone; a head on the vocabulary is neither needed nor read."""
    named = fields.get("architectures")
    if not isinstance(named, list) or len(named) != 1 or named[0] not in ARCHITECTURES:
        raise InputError(f"{where}: architectures is {short(named)}; expected one of {', '.join(ARCHITECTURES)}")
    if fields.get("model_type") != "llama":
        raise InputError(f"{where}: model_type is {short(fields.get('model_type'))}; classifiers are llama models")
    if fields.get("do_normalize"):
        raise InputError(
            f"{where}: do_normalize is set; scores that are normalised after the head are not supported"
        )
    plain = {name: value for name, value in fields.items() if name != "architectures"}
    return dataclasses.replace(parse_model_config(plain, where), tied=True)


def _locate(folder, where) -> tuple[dict[str, SafetensorsFile], str, tuple[str, ...]]:
    """Return where every weight lies, the head's name, and notes."""
    files, notes = files_of.locate(folder)
    heads = [name for name in _HEADS if name in files]
    if len(heads) != 1:
        found = " and ".join(heads) or "neither"
        raise InputError(f"{folder}: expected one head, {' or '.join(_HEADS)}; found {found}")
    # Running means of a score model's training; without do_normalize nothing reads them.
    return {name: file for name, file in files.items() if not name.startswith(_NORMALIZER)}, heads[0], notes


def _labels(fields, shape, where) -> tuple[str, ...]:
    """Return the class names: ``id2label`` where it is given, else ``LABEL_0`` and so on."""
    count = shape[0] if len(shape) == 2 else 0
    named = fields.get("id2label")
    if not named:
        return tuple(f"LABEL_{i}" for i in range(count))
    if not isinstance(named, dict) or set(named) != {str(i) for i in range(count)}:
        raise InputError(
            f"{where}: id2label is {short(named)}; expected names 0 to {count - 1}, as the head has rows"
        )
    return tuple(str(named[str(i)]) for i in range(count))


def classify(model: Classifier, params: Params, tokens: Array, attention_mask: Array | None = None) -> jax.Array:
    """Return the class logits of whole sequences.

    Args:
      model, params: from ``load_classifier``.
      tokens: ``[B, T]`` integers.
      attention_mask: ``[B, T]``, False or 0 at padding, left or right; None for no padding.

    Returns:
      ``[B, C]`` float32, read at each row's last unmasked position.

    Raises:
      InputError: inputs that do not fit the model.
    """
    check_tokens(model, tokens, attention_mask)  # type: ignore[arg-type]
    mask = jnp.ones(tokens.shape, bool) if attention_mask is None else jnp.asarray(attention_mask, bool)
    return _classify(model, params, tokens, mask)


@functools.partial(jax.jit, static_argnames="model")
def _classify(model, params, tokens, mask):
    return model.apply({"params": params}, tokens, mask)
