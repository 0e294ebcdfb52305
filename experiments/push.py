"""``python -m experiments.push`` is ``nlsr push``; see ``nlsr_jax.commands.push``."""

from nlsr_jax.commands.console import launch

if __name__ == "__main__":
    launch("push")
