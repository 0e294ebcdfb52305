"""The base of a run: all of it in memory, or opened to be read layer by layer."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from nlsr_jax.pipeline.run import Run
from nlsr_jax.pipeline.settings import EvidenceSettings
from nlsr_jax.pipeline.shared import stamp


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


def load_shared_base(path: str, settings: EvidenceSettings, run: Run) -> tuple[tuple[Any, Any], list[str]]:
    """Return ``load_base`` and notes on its files; several runs share one base in memory.

    A streamed base is opened by each of them: little of it is ever in memory.
    """

    def load() -> tuple[tuple[Any, Any], list[str]]:
        notes: list[str] = []
        return load_base(path, settings, run, notes.append), notes

    if settings.stream:
        return load()
    return run.shared.once("base", (stamp(path), settings.dtype, run.mesh), load)
