"""The identity of a training run: two runs with the same identity and key produce the same bytes."""

import dataclasses
import hashlib
from typing import Any

import jax
import numpy as np

from nlsr_jax.training.settings import TrainingSettings


def digest(tree: Any) -> str:
    """Return a SHA-256 over the arrays of a tree: types, shapes and bytes, leaf by leaf."""
    found = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        host = np.ascontiguousarray(leaf)
        found.update(f"{host.dtype}{host.shape}".encode())
        found.update(host.reshape(-1).view(np.uint8).data)
    return found.hexdigest()


def run_identity(trainable: Any, frozen: Any, rows: Any, settings: TrainingSettings) -> dict[str, Any]:
    """Return the identity of a run: its settings, and digests of its inputs.

    Args:
      trainable: initial arrays.
      frozen: other arrays used by the forward pass.
      rows: encoded rows.
      settings: training settings. The checkpoint interval is left out because it does not affect the result.
    """
    changing = dataclasses.asdict(settings)
    del changing["save_every"]
    return {"settings": changing, "start": digest(trainable), "base": digest(frozen), "rows": digest(rows)}
