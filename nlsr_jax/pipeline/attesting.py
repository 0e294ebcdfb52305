"""Attest to the output of a run: its statement, signed with a key or by an identity."""

import os
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

from nlsr_jax.attestation import keys
from nlsr_jax.attestation.envelope import Envelope, Signature, dump_envelope, signed_bytes
from nlsr_jax.attestation.identity import sign_with_identity
from nlsr_jax.attestation.statement import dump, make_statement, unpinned
from nlsr_jax.errors import InputError
from nlsr_jax.files.digests import sha256
from nlsr_jax.files.output import check_free_file, whole_file
from nlsr_jax.files.ownership import ATTESTATIONS, BUNDLE, ENVELOPE, STATEMENT, json_with
from nlsr_jax.files.paths import expand
from nlsr_jax.pipeline.verification import compare_outputs, read_output


class Attested(NamedTuple):
    """What ``attest`` has done.

    Attributes:
      files: the files that it has written.
      notes: a line for every input that the statement names without a digest or a revision.
    """

    files: tuple[pathlib.Path, ...]
    notes: tuple[str, ...]


def attest(
    output: str | os.PathLike,
    *,
    key: str | os.PathLike | None = None,
    sigstore: bool = False,
    overwrite: bool = False,
) -> Attested:
    """Write the statement of an output of ``realign_files`` or ``identify_files`` into its folder, and sign it.

    Args:
      output: the folder; nothing in it may have changed since the run.
      key: PEM file of a private key that signs the statement; None for none.
      sigstore: sign as who runs this program, which needs the network.
      overwrite: replace an attestation of the folder.

    Raises:
      InputError: an output that is not as recorded, a key that cannot sign, or an attestation that exists.
    """
    folder = expand(output)
    file, record, sealed = read_output(folder)
    changed = [] if sealed else [f"{file.name}: is not what was written"]
    changed += compare_outputs(folder, file.name, record).changed
    if changed:
        raise InputError(f"{folder}: is not as recorded ({changed[0]}); a statement about it would be wrong")
    payload = dump(make_statement(record, file.name, sha256(file)))
    makers: dict[str, Callable[[], bytes]] = {STATEMENT: lambda: payload}
    if key is not None:
        keys.check_private_key(key)
        makers[ENVELOPE] = lambda: _signed(payload, key)
    if sigstore:
        makers[BUNDLE] = lambda: sign_with_identity(payload).encode()
    _check_places(folder, makers, payload, overwrite)
    made = {name: make() for name, make in makers.items()}
    for name, data in made.items():
        _write(folder / name, data)
    notes = [f"{text} has neither digest nor revision in the record" for text in unpinned(record)]
    return Attested(tuple(folder / name for name in made), tuple(notes))


def _signed(payload: bytes, key: str | os.PathLike) -> bytes:
    return dump_envelope(Envelope(payload, (Signature(*keys.sign(signed_bytes(payload), key)),)))


def _check_places(folder: pathlib.Path, makers: dict[str, Any], payload: bytes, overwrite: bool) -> None:
    """Check what is there before anything is signed; the same statement may stay."""
    for name in makers:
        path = folder / name
        if name == STATEMENT and path.is_file() and path.read_bytes() == payload:
            continue
        check_free_file(path, overwrite, foreign=json_with(*ATTESTATIONS[name]))


def _write(path: pathlib.Path, data: bytes) -> None:
    with whole_file(path, overwrite=True, foreign=json_with(*ATTESTATIONS[path.name])) as file:
        file.write_bytes(data)
