"""Run a verb with a folder in place of the hub: ``python -m tests.commands.pushing VERB [flags]``."""

import sys

import huggingface_hub

from nlsr_jax.commands.console import main
from tests.hub_folder import FolderHub

if __name__ == "__main__":
    huggingface_hub.HfApi = FolderHub
    main(sys.argv[1:])
