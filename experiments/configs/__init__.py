"""Alias of ``nlsr_jax.configs`` under its former name."""

from nlsr_jax.configs import __path__, get, names

__all__ = ["__path__", "get", "names"]
