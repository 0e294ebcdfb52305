"""The former place of ``Stages``."""

from nlsr_jax.progress import Stages

__all__ = ["Stages"]
