"""The runs of the commands, from files to files, for use from Python."""

from typing import TYPE_CHECKING

from nlsr_jax.lazy import lazily

if TYPE_CHECKING:
    from nlsr_jax.pipeline.masking import identify_files
    from nlsr_jax.pipeline.realignment import realign_files
    from nlsr_jax.pipeline.settings import Settings
    from nlsr_jax.progress import Stages

__all__ = ["Settings", "Stages", "identify_files", "realign_files"]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "nlsr_jax.pipeline.masking": "identify_files",
        "nlsr_jax.pipeline.realignment": "realign_files",
        "nlsr_jax.pipeline.settings": "Settings",
        "nlsr_jax.progress": "Stages",
    },
)
