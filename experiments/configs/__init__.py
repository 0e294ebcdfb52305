"""The configs of the studies by their name of before; see ``nlsr_jax.configs``."""

from nlsr_jax.configs import __path__, get, names

__all__ = ["__path__", "get", "names"]
