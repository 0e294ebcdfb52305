"""``python -m experiments.check`` is ``nlsr check``; see ``nlsr_jax.commands.check``."""

from nlsr_jax.commands.console import launch

if __name__ == "__main__":
    launch("check")
