"""``python -m experiments.quickstart`` is ``nlsr quickstart``; see ``nlsr_jax.commands.quickstart``."""

from nlsr_jax.commands.console import launch

if __name__ == "__main__":
    launch("quickstart")
