r"""Push the output of realign or identify to the Hugging Face hub.

  nlsr push OUT ORG/NAME
  nlsr push OUT ORG/NAME --private

The command creates the repository if it does not exist. It uploads the record, the files that the record names, and
the attestation. The model card is OUT/README.md, with the figures of the check if OUT was checked. Other files in
OUT are not uploaded. An OUT that has changed since it was written is refused. Log in first: hf auth login.
"""

from collections.abc import Sequence

from absl import flags

from nlsr_jax.commands import command
from nlsr_jax.commands.pushed import print_pushed
from nlsr_jax.errors import InputError

flags.DEFINE_bool("private", False, "Make a private repository; one that is public is refused.")
FLAGS = flags.FLAGS


def main(arguments: Sequence[str]) -> None:
    """Push one output."""
    from nlsr_jax.pipeline.pushing import push

    if len(arguments) != 3:
        raise InputError("name the folder and the repository: nlsr push OUT ORG/NAME")
    print_pushed(push(arguments[1], arguments[2], private=FLAGS.private))


if __name__ == "__main__":
    command.run(main, positional=2)
