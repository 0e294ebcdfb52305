"""Named streams of one PRNG key: all randomness of a run derives from ``jax.random.key(seed)``."""

import zlib

import jax
import jax.numpy as jnp
import numpy as np


def stream(key: jax.Array, name: str) -> jax.Array:
    """Return the key of the stream ``name``: ``fold_in(key, crc32(name))``.

    Args:
      key: the run's key.
      name: purpose of the stream, such as ``"pruning"``.
    """
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def describe_key(key: jax.Array) -> dict:
    """Return the key's data and implementation name, in the form that records store."""
    return {
        "implementation": str(jax.random.key_impl(key)),
        "data": [int(word) for word in jax.random.key_data(key).ravel()],
    }


def restore_key(described: dict) -> jax.Array:
    """Return the key described by ``describe_key``."""
    return jax.random.wrap_key_data(jnp.asarray(described["data"], jnp.uint32), impl=described["implementation"])


def generator(key: jax.Array, name: str) -> np.random.Generator:
    """Return a NumPy generator for the stream ``name``, for data made on the host.

    Args:
      key: the run's key.
      name: purpose of the stream.
    """
    words = np.asarray(jax.random.key_data(stream(key, name))).ravel()
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([int(word) for word in words])))
