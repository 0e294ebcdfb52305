r"""Check the output of realign or identify against its record: what has changed since, and what it was made of.

  nlsr verify OUT
  nlsr verify OUT --recompute [--base DIR --aligned DIR ... where inputs were moved]
  nlsr verify OUT --public_key KEY.pub
  nlsr verify OUT --identity NAME --issuer URL

The command compares every file of the folder, every input that is at hand, and the record itself, which carries the
SHA-256 of its own text. --recompute repeats the run in a temporary folder, and compares adapter, config and masks.
The statement that nlsr attest has written is compared too. --public_key also checks its signature by a key, and
--identity with --issuer the one by sigstore; the signature must then be there. The status is 0 if everything is as
recorded, 1 if anything is not; inputs that are not at hand and signatures that were not checked are named.
"""

import sys
from collections.abc import Sequence

from absl import flags

from nlsr_jax.commands import command, path_flags
from nlsr_jax.errors import InputError
from nlsr_jax.pipeline.settings import PATHS

flags.DEFINE_bool("recompute", False, "Run it again and compare.")
path_flags.define_input("public_key", None, "PEM file of the key that must have signed the statement.")
flags.DEFINE_string("identity", None, "Address or workflow that must have signed the statement, by sigstore.")
flags.DEFINE_string("issuer", None, "URL of the issuer of --identity.")
for _name in PATHS:
    path_flags.define_input(_name, None, "Where this input lies now, if not where the record says.")
FLAGS = flags.FLAGS


def main(arguments: Sequence[str]) -> None:
    """Check one output."""
    from nlsr_jax.attestation.checking import Signer
    from nlsr_jax.devices import open_devices
    from nlsr_jax.pipeline import Stages
    from nlsr_jax.pipeline.verification import verify

    if len(arguments) != 2:
        raise InputError("name the folder to check: nlsr verify OUT")
    if FLAGS.recompute:
        open_devices()
    moved: dict[str, str] = {name: str(FLAGS[name].value) for name in PATHS if FLAGS[name].value is not None}
    signer = Signer(FLAGS.public_key, FLAGS.identity, FLAGS.issuer)
    stages = Stages(show=FLAGS.recompute)
    found = verify(arguments[1], moved=moved, recompute=FLAGS.recompute, signer=signer, stages=stages)
    for line in found.missing:
        print(f"note: {line}")
    for line in found.changed:
        print(f"changed: {line}")
    if found.changed:
        sys.exit(f"error: {arguments[1]}: {len(found.changed)} things are not as recorded")
    print(f"{found.compared} files are as recorded")


if __name__ == "__main__":
    command.run(main, positional=1)
