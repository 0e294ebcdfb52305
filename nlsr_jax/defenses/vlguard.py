"""VLGuard's mixing: a share of the customer's rows gives way to safe answers.

Source: Zong et al., 2024 (arXiv 2402.02207), as NLSR's authors compare with it: of n rows, n · g are safe ones.
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
    """Replace a share of the rows that are not harmful by guides, at random places.

    Args:
      key: PRNG key of the places.
      rows: the customer's; harmful ones all stay, as a service does not know them.
      guides: safe rows, as many as are needed.
      guide_share: g, of all rows.

    Returns:
      As many rows as were given.

    Raises:
      InputError: a share that cannot be taken, or too few guides.
    """
    count = share(len(rows), guide_share)
    harmless = np.array([i for i, row in enumerate(rows) if row.kind != "harmful"])
    if count > len(harmless) or count > len(guides):
        raise InputError(
            f"guide_share {guide_share:g} of {len(rows)} rows takes {count} guides in place of harmless rows; "
            f"there are {len(guides)} guides and {len(harmless)} harmless rows"
        )
    places = np.asarray(jax.random.permutation(key, len(harmless)))[:count]
    mixed = list(rows)
    for guide, place in zip(guides, harmless[places], strict=False):
        mixed[place] = guide
    return mixed
