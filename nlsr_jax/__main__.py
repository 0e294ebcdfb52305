"""``python -m nlsr_jax VERB`` is ``nlsr VERB``."""

from nlsr_jax.commands.console import main

if __name__ == "__main__":
    main()
