"""RMS norms of narrow types are computed in float32 and rounded once, or once before the scale."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nlsr_jax.architecture.known import known_config
from nlsr_jax.models.norm import rms_norm


@pytest.mark.parametrize("name", ["llama3_8b", "gemma2_9b"])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_narrow_rows_are_normed_as_wide_ones(name, dtype):
    config = known_config(name)
    x = (3 * jax.random.normal(jax.random.key(0), (8, 512))).astype(dtype)
    scale = jax.random.uniform(jax.random.key(1), (512,), minval=0.5, maxval=1.5).astype(dtype)
    wide = np.asarray(x, np.float64)
    wide /= np.sqrt(np.mean(wide**2, axis=-1, keepdims=True) + config.eps)
    if config.table.norm_wide:
        expected = jnp.asarray(wide * (config.table.norm_offset + np.asarray(scale, np.float64)), dtype)
    else:
        expected = jnp.asarray(wide, dtype) * scale
    found = rms_norm(config, x, scale)
    assert found.dtype == dtype
    # Few values lie so near to the middle of two numbers that float32 rounds them to the other one.
    assert np.mean(np.asarray(found) == np.asarray(expected)) > 0.99
