"""Texts that begin alike, as behind the system prompt of a chat template; see ``nlsr_jax.models.shared_prefix``."""

import numpy as np

from nlsr_jax.data.batching import Packed
from nlsr_jax.models.shared_prefix import STEP, WORTH


def shared_length(packed: Packed) -> int:
    """Return how many tokens all texts begin with, of those before the last one ahead of any response.

    Args:
      packed: the texts.

    Returns:
      A multiple of ``STEP``; 0 where there are fewer than ``WORTH``.
    """
    most = int(packed.starts.min()) - 1
    if most < WORTH:
        return 0
    begins = packed.ids[packed.first.reshape(-1, 1) + np.arange(most)]
    same = (begins == begins[0]).all(axis=0)
    length = (most if same.all() else int(same.argmin())) // STEP * STEP
    return length if length >= WORTH else 0


def cut(packed: Packed, length: int) -> Packed:
    """Return texts without their first ``length`` tokens."""
    return packed._replace(
        first=packed.first + length, starts=packed.starts - length, lengths=packed.lengths - length
    )
