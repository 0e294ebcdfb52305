"""``python -m experiments.plan`` is ``nlsr plan``; see ``nlsr_jax.commands.plan``."""

from nlsr_jax.commands.console import launch

if __name__ == "__main__":
    launch("plan")
