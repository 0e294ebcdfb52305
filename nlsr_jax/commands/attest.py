r"""Attest to the output of realign or identify: write an in-toto statement into it, and sign it.

  nlsr attest OUT
  nlsr attest OUT --key KEY.pem
  nlsr attest OUT --sigstore

The statement (attestation.json) names the SHA-256 of every file of the output, and as provenance (SLSA v1) the
digests of all inputs, the revisions of those of the hub, the settings and the key of the draw. --key signs it with
a private key in PEM (Ed25519, or ECDSA on P-256 or P-384) and writes attestation.dsse.json. --sigstore signs it
with the identity of whoever runs the command, which needs the network, and writes attestation.sigstore.json. nlsr
verify OUT checks both.
"""

from collections.abc import Sequence

from absl import flags

from nlsr_jax.commands import command, path_flags
from nlsr_jax.errors import InputError

path_flags.define_input("key", None, "PEM file of the private key that signs the statement.")
flags.DEFINE_bool("sigstore", False, "Sign with an identity, by sigstore.")
flags.DEFINE_bool("overwrite", False, "Replace an attestation of this output.")
FLAGS = flags.FLAGS


def main(arguments: Sequence[str]) -> None:
    """Attest to one output."""
    from nlsr_jax.pipeline.attesting import attest

    if len(arguments) != 2:
        raise InputError("name the folder to attest to: nlsr attest OUT")
    done = attest(arguments[1], key=FLAGS.key, sigstore=FLAGS.sigstore, overwrite=FLAGS.overwrite)
    for line in done.notes:
        print(f"note: {line}")
    print(f"wrote {' and '.join(map(str, done.files))}")


if __name__ == "__main__":
    command.run(main, positional=1)
