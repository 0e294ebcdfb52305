"""The supported families, one table per file."""

import types
from collections.abc import Mapping

from nlsr_jax.architecture.families import (
    gemma,
    gemma2,
    gemma3,
    llama,
    mistral,
    mixtral,
    olmo2,
    phi3,
    qwen2,
    qwen3,
    qwen3_moe,
)
from nlsr_jax.architecture.family import Family

_MODULES = (llama, mistral, qwen2, qwen3, gemma, gemma2, gemma3, phi3, olmo2, qwen3_moe, mixtral)
FAMILIES: Mapping[str, Family] = types.MappingProxyType(
    {module.FAMILY.model_type: module.FAMILY for module in _MODULES}
)
"""Tables by ``model_type``."""
