"""``python -m experiments.align`` is ``nlsr align``; see ``nlsr_jax.commands.align``."""

from nlsr_jax.commands.console import launch

if __name__ == "__main__":
    launch("align")
