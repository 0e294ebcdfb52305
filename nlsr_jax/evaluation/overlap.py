"""Agreement of masks and of module choices, measured on kept entries, with its chance level."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from nlsr_jax.adapter import module_names
from nlsr_jax.types import Masks


def mask_overlap(first: Masks, second: Masks) -> float:
    """Return the share of the first mask's kept entries that the second also keeps. Chance level: its share."""
    both = sum(int(jnp.sum(first[m][f] & second[m][f])) for m in module_names(first) for f in ("a", "b"))
    return both / max(kept_entries(first), 1)


def kept_entries(masks: Masks) -> int:
    """Return the number of kept entries in a tree of masks."""
    return sum(int(jnp.sum(masks[m][f])) for m in module_names(masks) for f in ("a", "b"))


def choice_agreement(first: Mapping[str, Any], second: Mapping[str, Any]) -> float:
    """Return the share of modules on which two choices ``{module: [L]}`` bool agree."""
    same = [np.asarray(first[m]) == np.asarray(second[m]) for m in module_names(first)]
    return float(np.concatenate(same).mean())
