"""``python -m experiments.finetune`` is ``nlsr finetune``; see ``nlsr_jax.commands.finetune``."""

from nlsr_jax.commands.console import launch

if __name__ == "__main__":
    launch("finetune")
