"""The runs of the commands, from files to files, for use from Python."""

from nlsr_jax.pipeline.masking import identify_files
from nlsr_jax.pipeline.realignment import realign_files
from nlsr_jax.pipeline.settings import Settings
from nlsr_jax.pipeline.stages import Stages

__all__ = ["Settings", "Stages", "identify_files", "realign_files"]
