"""Models from Hugging Face directories, and back."""

import dataclasses
import os
import pathlib
import warnings
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from nlsr_jax.errors import InputError, one_line
from nlsr_jax.files.memory import give_back_large
from nlsr_jax.formats import hugging_face  # whole, because it imports this package in turn
from nlsr_jax.formats.end_tokens import read_end_tokens
from nlsr_jax.formats.layer_files import LayerFiles
from nlsr_jax.models.fused_attention import check_attention
from nlsr_jax.models.llama import Llama
from nlsr_jax.models.streamed import StreamedParams, check_range
from nlsr_jax.parallel import layout_of
from nlsr_jax.types import Params

DTYPES = ("float32", "bfloat16", "float16")


def warn(text: str) -> None:
    """Give a note on a model's files to who called the function that opens them."""
    warnings.warn(text, stacklevel=4)


def load_model(
    path: str | os.PathLike,
    dtype: Any = jnp.float32,
    mesh: Mesh | None = None,
    attention: str = "plain",
    *,
    note: Callable[[str], None] = warn,
) -> tuple[Llama, Params]:
    """Load a model of one of the families of ``nlsr_jax.architecture.families``.

    Args:
      path: Hugging Face directory (``config.json`` and safetensors) or hub id. Of a model that also sees, its
        language model is loaded.
      dtype: float type of the weights: float32, bfloat16 or float16.
      mesh: lay the weights out over this mesh (``nlsr_jax.parallel.make_mesh``).
      attention: ``"plain"``, or ``"fused"``: whole sequences by the kernel of a GPU (cuDNN; bfloat16 or float16
        weights) or of a TPU (Splash; bfloat16, no padding on the left and no window, lengths of a multiple of 128)
        on one device. What a kernel does not take is computed plainly.
      note: called with one line for everything that is odd about the files, such as a head that differs from the
        embedding it should be tied to. They are read as transformers reads them; by default a note is a warning.

    Returns:
      ``(model, params)``: a Flax module, ``model.apply({"params": params}, tokens)`` gives
      ``[B, T, V]`` float32 logits; and its parameter tree. ``model.config.end_tokens`` are the tokens that end its
      answers, as its ``generation_config.json`` or ``config.json`` names them.

    Raises:
      InputError: a model, a dtype or an attention that is not supported, files that are missing or damaged, or
        weights beyond what float16 holds.
    """
    dtype = _float_type(dtype)
    folder = hugging_face.resolve(path)
    check_attention(attention, hugging_face.read_config(folder), dtype, mesh)
    weights = _open(folder, dtype, note)
    with np.errstate(over="ignore"):  # said below
        params = hugging_face.read_params(weights, dtype, mesh)
    check_range(params, dtype, folder)
    return Llama(weights.config, layout=layout_of(params), attention=attention), params


def stream_model(
    path: str | os.PathLike, dtype: Any = jnp.float32, *, note: Callable[[str], None] = warn
) -> tuple[Llama, StreamedParams]:
    """Open a model whose weights are read when their turn comes; see ``load_model``, which reads all of them.

    Returns:
      ``(model, params)``; the passes over calibration data take these parameters in place of a tree.

    Raises:
      InputError: see ``load_model``; weights beyond what float16 holds are found when they are read.
    """
    dtype = _float_type(dtype)
    folder = hugging_face.resolve(path)
    weights = _open(folder, dtype, note)
    give_back_large()
    return Llama(weights.config), StreamedParams(LayerFiles(weights, dtype))


def _open(folder: pathlib.Path, dtype: np.dtype, note: Callable[[str], None]) -> hugging_face.Weights:
    """Find and check the weights; their config has the end tokens."""
    weights = hugging_face.open_weights(folder, hugging_face.read_config(folder), dtype)
    ends, odd = read_end_tokens(folder, weights.config.vocab_size)
    for text in (*weights.notes, *odd):
        note(one_line(text))
    return weights._replace(config=dataclasses.replace(weights.config, end_tokens=ends))


def _float_type(dtype) -> np.dtype:
    """Return a supported type of weights; any other would round them away in silence."""
    try:
        found = jnp.dtype(dtype)
    except TypeError:
        found = None
    if found is None or found.name not in DTYPES:
        raise InputError(f"dtype is {getattr(found, 'name', dtype)!r}; expected one of {', '.join(DTYPES)}")
    return found


def save_model(model: Llama, params: Params, path: str | os.PathLike, *, overwrite: bool = False) -> None:
    """Write a model as a Hugging Face directory that transformers loads; see ``load_model``.

    Raises:
      InputError: the directory exists and ``overwrite`` is False, or it cannot be written.
    """
    hugging_face.save_params(params, model.config, path, overwrite=overwrite)
