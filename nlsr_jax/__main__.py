"""Make ``python -m nlsr_jax VERB`` the same as ``nlsr VERB``."""

import os
import sys

if __name__ == "__main__":
    # Python puts the working directory first, so a user's tokenizers.py would shadow the library.
    if sys.path and sys.path[0] == os.getcwd() and not sys.flags.safe_path:  # noqa: PTH109 - before all imports
        del sys.path[0]

    from nlsr_jax.commands.console import main

    main()
