"""``python -m experiments.identify`` is ``nlsr identify``; see ``nlsr_jax.commands.identify``."""

from nlsr_jax.commands.console import launch

if __name__ == "__main__":
    launch("identify")
