"""``python -m experiments.realign`` is ``nlsr realign`` with the paper's defaults for --aligned.

The paper's tables are made with these; see ``nlsr_jax.commands.realign``.
"""

from nlsr_jax.commands.console import launch

if __name__ == "__main__":
    launch("realign", PUBLISHED_WITH_ALIGNED=True)
