"""``python -m experiments.fleet`` is ``nlsr fleet``; see ``nlsr_jax.commands.fleet``."""

from nlsr_jax.commands.console import launch

if __name__ == "__main__":
    launch("fleet")
