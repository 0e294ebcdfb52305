"""Texts that begin alike, as behind the system prompt of a chat template; see ``nlsr_jax.models.shared_prefix``."""

import numpy as np

from nlsr_jax.data.batching import Packed
from nlsr_jax.models.shared_prefix import common_length


def shared_length(packed: Packed) -> int:
    """Return how many tokens all texts begin with, of those before the last one ahead of any response.

    Args:
      packed: the texts.

    Returns:
      See ``common_length``.
    """
    most = int(packed.starts.min()) - 1
    return common_length(packed.ids[packed.first.reshape(-1, 1) + np.arange(most)])


def cut(packed: Packed, length: int) -> Packed:
    """Return texts without their first ``length`` tokens."""
    return packed._replace(
        first=packed.first + length, starts=packed.starts - length, lengths=packed.lengths - length
    )
