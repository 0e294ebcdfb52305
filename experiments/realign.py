"""``python -m experiments.realign`` is ``nlsr realign``; see ``nlsr_jax.commands.realign``."""

from nlsr_jax.commands.console import launch

if __name__ == "__main__":
    launch("realign")
