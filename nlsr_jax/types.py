"""Names of the trees that public functions take and return.

Axis legend: L layers, r rank, k in-features, d out-features.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import jax

Masks = Mapping[str, Mapping[str, "jax.Array"]]
"""Bool tree of an adapter's factors, ``{module: {"a": [L, r, k], "b": [L, d, r]}}``; true where an entry is
safety-critical."""

Gradients = Mapping[str, Mapping[str, "jax.Array"]]
"""Float tree of an adapter's factors, of the same shape as ``Masks``."""

Params = Mapping[str, Any]
"""Weights of a base model as ``load_model`` returns them: nested by name, layers stacked."""

Tokenizer = Any
"""A tokenizer of transformers, such as ``load_tokenizer`` returns."""
