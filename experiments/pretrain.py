"""``python -m experiments.pretrain`` is ``nlsr pretrain``; see ``nlsr_jax.commands.pretrain``."""

from nlsr_jax.commands.console import launch

if __name__ == "__main__":
    launch("pretrain")
