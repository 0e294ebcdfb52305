"""``python -m experiments.verify`` is ``nlsr verify``; see ``nlsr_jax.commands.verify``."""

from nlsr_jax.commands.console import launch

if __name__ == "__main__":
    launch("verify")
