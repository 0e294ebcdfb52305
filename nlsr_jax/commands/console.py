"""The console command ``nlsr VERB``, also ``python -m nlsr_jax VERB``."""

import runpy
import sys
from collections.abc import Sequence

import nlsr_jax
from nlsr_jax.commands import streams

VERBS = {
    "realign": "repair a fine-tuned adapter",
    "fleet": "repair many customers' adapters of one base",
    "identify": "find the safety-critical entries of an aligned adapter",
    "verify": "check a realigned adapter against its record",
    "attest": "write and sign a statement of what an output is made of",
    "push": "push an output to the Hugging Face hub",
    "plan": "say what a realignment takes on which devices",
    "evaluate": "measure harmfulness, accuracy and over-refusal",
    "check": "decide with confidence whether a model may be served",
    "harness": "gather results of lm-evaluation-harness and inspect_ai in one table",
    "pretrain": "train the base of a study",
    "align": "train an aligned adapter",
    "finetune": "train a fine-tuned adapter",
    "quickstart": "align, break and repair the tiny model",
}
_HELP = ("-h", "-?", "--help", "--helpshort", "--helpfull", "help")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the verb that the first argument names; the others are its own.

    Args:
      arguments: the command line behind the program's name, by default the process's.
    """
    streams.open_streams()
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["help"] and len(given) > 1:
        given = [given[1], "--help"]
    if not given or given[0] in _HELP:
        _print(_help())
    elif given[0] in ("--version", "version"):
        _print(f"nlsr {nlsr_jax.__version__}")
    elif given[0] in VERBS:
        launch(given[0], given[1:])
    else:
        sys.exit(f"error: {_unknown(given[0])}")


def launch(verb: str, arguments: Sequence[str] | None = None, **names: object) -> None:
    """Run one verb as the main program.

    Args:
      verb: one of ``VERBS``.
      arguments: its command line, by default the process's.
      **names: what the verb's module finds among its global names, such as other defaults.
    """
    sys.argv[1:] = sys.argv[1:] if arguments is None else arguments
    runpy.run_module(f"nlsr_jax.commands.{verb}", init_globals=names, run_name="__main__", alter_sys=True)


def _print(text: str) -> None:
    print(text)
    streams.check_printed()


def _help() -> str:
    width = max(map(len, VERBS))
    lines = [f"  {verb:<{width}}  {what}" for verb, what in VERBS.items()]
    ends = ["nlsr VERB --help shows what a verb does and its flags.", "nlsr --version shows the version."]
    return "\n".join(["usage: nlsr VERB [flags]", "", *lines, "", *ends])


def _unknown(given: str) -> str:
    if given.startswith("-"):
        return f"{given!r} stands where the verb belongs: nlsr VERB [flags]; nlsr --help lists the verbs"
    import difflib

    near = difflib.get_close_matches(given.lower(), VERBS, n=1)
    meant = f"; did you mean {near[0]}?" if near else f"; expected one of {', '.join(VERBS)}"
    return f"{given!r} is not a verb of nlsr{meant}"
