"""The console command ``nlsr VERB``, also ``python -m nlsr_jax VERB``."""

import runpy
import sys
from collections.abc import Sequence

VERBS = {
    "realign": "repair a fine-tuned adapter",
    "identify": "find the safety-critical entries of an aligned adapter",
    "verify": "check a realigned adapter against its record",
    "plan": "say what a realignment takes on which devices",
    "evaluate": "measure harmfulness, accuracy and over-refusal",
    "pretrain": "train the base of a study",
    "align": "train an aligned adapter",
    "finetune": "train a fine-tuned adapter",
    "quickstart": "align, break and repair the tiny model",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the verb that the first argument names; the others are its own.

    Args:
      arguments: the command line behind the program's name, by default the process's.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help", "--helpshort", "--helpfull", "help"):
        print(_help())
        return
    if given[0] not in VERBS:
        sys.exit(f"error: {given[0]!r} is no verb of nlsr; expected one of {', '.join(VERBS)}")
    launch(given[0], given[1:])


def launch(verb: str, arguments: Sequence[str] | None = None) -> None:
    """Run one verb as the main program.

    Args:
      verb: one of ``VERBS``.
      arguments: its command line, by default the process's.
    """
    sys.argv[1:] = sys.argv[1:] if arguments is None else arguments
    runpy.run_module(f"nlsr_jax.commands.{verb}", run_name="__main__", alter_sys=True)


def _help() -> str:
    width = max(map(len, VERBS))
    lines = [f"  {verb:<{width}}  {what}" for verb, what in VERBS.items()]
    return "\n".join(["usage: nlsr VERB [flags]", "", *lines, "", "nlsr VERB --help lists the flags of a verb."])
