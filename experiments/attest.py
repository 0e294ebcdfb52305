"""``python -m experiments.attest`` is ``nlsr attest``; see ``nlsr_jax.commands.attest``."""

from nlsr_jax.commands.console import launch

if __name__ == "__main__":
    launch("attest")
