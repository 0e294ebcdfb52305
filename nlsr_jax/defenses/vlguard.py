"""VLGuard's mixing: replace a share of the customer's rows with safe answers.

Source: Zong et al., 2024 (arXiv 2402.02207), as NLSR's authors compare with it: of n rows, n · g are safe.
"""

from collections.abc import Sequence

import jax
import numpy as np

from nlsr_jax.data.examples import Example
from nlsr_jax.data.poison import share
from nlsr_jax.errors import InputError


def mix_guides(
    key: jax.Array, rows: Sequence[Example], guides: Sequence[Example], *, guide_share: float = 0.1
) -> list[Example]:
    """Replace a share of the rows that are not harmful with guides, at random positions.

    Args:
      key: PRNG key of the positions.
      rows: the customer's rows; all harmful ones are kept, because a service does not know them.
      guides: safe rows; only as many as needed are used.
      guide_share: g, as a share of all rows.

    Returns:
      As many rows as given.

    Raises:
      InputError: if the share cannot be replaced, or there are too few guides.
    """
    count = share(len(rows), guide_share)
    harmless = np.array([i for i, row in enumerate(rows) if row.kind != "harmful"])
    if count > len(harmless) or count > len(guides):
        raise InputError(
            f"guide_share {guide_share:g} of {len(rows)} rows replaces {count} harmless rows with guides; "
            f"there are {len(guides)} guides and {len(harmless)} harmless rows"
        )
    places = np.asarray(jax.random.permutation(key, len(harmless)))[:count]
    mixed = list(rows)
    for guide, place in zip(guides, harmless[places], strict=False):
        mixed[place] = guide
    return mixed
