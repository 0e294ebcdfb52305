"""Compare an output's attestation with the output, and its signatures with a key or an identity."""

import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from nlsr_jax.attestation import identity, keys
from nlsr_jax.attestation.envelope import read_envelope, signed_bytes
from nlsr_jax.attestation.statement import dump, explain_difference, make_statement
from nlsr_jax.errors import InputError
from nlsr_jax.files.digests import sha256
from nlsr_jax.files.json_files import read_json_object
from nlsr_jax.files.limits import LIMITS
from nlsr_jax.files.ownership import BUNDLE, ENVELOPE, STATEMENT
from nlsr_jax.files.paths import is_regular


class Signer(NamedTuple):
    """Who must have signed a statement.

    Attributes:
      public_key: PEM file of a key; None for none.
      identity, issuer: of a sigstore signature; None for none.
    """

    public_key: str | None = None
    identity: str | None = None
    issuer: str | None = None


class Checked(NamedTuple):
    """What a check of an attestation has found.

    Attributes:
      changed: a line for everything that is not as attested.
      notes: a line for every signature that was not checked.
      compared: how many files of the attestation are as they should be.
    """

    changed: tuple[str, ...]
    notes: tuple[str, ...]
    compared: int


def check_attestation(
    folder: pathlib.Path, file: pathlib.Path, record: Mapping[str, Any], signer: Signer, *, sealed: bool
) -> Checked:
    """Check the statement of an output and its signatures.

    Args:
      folder: the output.
      file: its record.
      record: what the record holds.
      signer: who must have signed.
      sealed: whether the record is as it was written; if not, the statement is not compared with it.

    Raises:
      InputError: a key that cannot be read, or an identity without its issuer.
    """
    if (signer.identity is None) != (signer.issuer is None):
        raise InputError("identity and issuer belong together; give both, or neither")
    changed: list[str] = []
    notes: list[str] = []
    there = [name for name in (STATEMENT, ENVELOPE, BUNDLE) if is_regular(folder / name)]
    wanted = [ENVELOPE] * (signer.public_key is not None) + [BUNDLE] * (signer.identity is not None)
    if there and STATEMENT not in there:
        wanted.insert(0, STATEMENT)
    changed += [f"{name}: is missing; nlsr attest writes it" for name in wanted if name not in there]
    large = [name for name in there if (folder / name).stat().st_size > LIMITS.json_bytes]
    changed += [f"{name}: has more than {LIMITS.json_bytes} bytes (NLSR_MAX_JSON_BYTES)" for name in large]
    if STATEMENT in there and not large:
        payload = (folder / STATEMENT).read_bytes()
        if sealed:
            changed += _compare(folder / STATEMENT, payload, make_statement(record, file.name, sha256(file)))
        for name, check in ((ENVELOPE, _check_envelope), (BUNDLE, _check_bundle)):
            if name in there:
                changed += check(folder / name, payload, signer, notes)
    named = {line.partition(":")[0] for line in changed}
    return Checked(tuple(changed), tuple(notes), len([name for name in there if name not in named]))


def _compare(path: pathlib.Path, payload: bytes, expected: Mapping[str, Any]) -> Iterator[str]:
    if payload == dump(expected):
        return
    try:
        why = explain_difference(read_json_object(path, "statement"), expected)
    except InputError:
        why = "it is not a statement any more"
    yield f"{path.name}: was changed: {why}"


def _check_envelope(path: pathlib.Path, payload: bytes, signer: Signer, notes: list[str]) -> Iterator[str]:
    try:
        envelope = read_envelope(path)
    except InputError as error:
        yield str(error)
        return
    if envelope.payload != payload:
        yield f"{path.name}: signs another statement than {STATEMENT}"
    elif signer.public_key is None:
        notes.append(f"{path.name}: the signature was not checked; give --public_key")
    else:
        data, key = signed_bytes(payload), signer.public_key
        if not any(keys.is_signed(data, one.value, one.key_id, key) for one in envelope.signatures):
            yield f"{path.name}: the signature is not that of {key} for {STATEMENT}"


def _check_bundle(path: pathlib.Path, payload: bytes, signer: Signer, notes: list[str]) -> Iterator[str]:
    if signer.identity is None or signer.issuer is None:
        notes.append(f"{path.name}: the signature was not checked; give --identity and --issuer")
        return
    try:
        signed = identity.signed_statement(path.read_bytes(), signer.identity, signer.issuer)
    except InputError as error:
        yield f"{path.name}: {error}"
        return
    if signed != payload:
        yield f"{path.name}: signs another statement than {STATEMENT}"
