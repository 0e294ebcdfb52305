"""The base of a run: all of it in memory, or opened to be read layer by layer."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from nlsr_jax.pipeline.run import Run
from nlsr_jax.pipeline.settings import EvidenceSettings


def load_base(path: str, settings: EvidenceSettings, run: Run, note: Callable[[str], None]) -> tuple[Any, Any]:
    """Return ``(model, params)``; see ``load_model`` and ``stream_model``.

    Args:
      path: Hugging Face directory or hub id.
      settings: number type, and whether layers are streamed.
      run: the context.
      note: called with what is odd about the files.

    Raises:
      InputError: a model that cannot be used.
    """
    from nlsr_jax.models import load_model, stream_model

    dtype = jnp.dtype(settings.dtype)
    if not settings.stream:
        return load_model(path, dtype=dtype, mesh=run.mesh, note=note)
    model, params = stream_model(path, dtype=dtype, note=note)
    return model, dataclasses.replace(params, track=run.stages.track, scratch=run.scratch)
