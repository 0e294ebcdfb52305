"""``python -m experiments.evaluate`` is ``nlsr evaluate``; see ``nlsr_jax.commands.evaluate``."""

from nlsr_jax.commands.console import launch

if __name__ == "__main__":
    launch("evaluate")
