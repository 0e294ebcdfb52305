"""``python -m experiments.harness`` is ``nlsr harness``; see ``nlsr_jax.commands.harness``."""

from nlsr_jax.commands.console import launch

if __name__ == "__main__":
    launch("harness")
