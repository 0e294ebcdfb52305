"""Signed statements as DSSE envelopes: what exactly is signed, and the file that holds it.

Source: Dead Simple Signing Envelope, protocol version 1, and in-toto's payload type.
"""

import base64
import binascii
import json
import pathlib
from typing import NamedTuple

from nlsr_jax.errors import InputError
from nlsr_jax.files.json_files import read_json_object

PAYLOAD_TYPE = "application/vnd.in-toto+json"


class Signature(NamedTuple):
    """A signature and the identifier of its key."""

    key_id: str
    value: bytes


class Envelope(NamedTuple):
    """A statement with its signatures.

    Attributes:
      payload: bytes of the statement.
      signatures: at least one.
    """

    payload: bytes
    signatures: tuple[Signature, ...]


def signed_bytes(payload: bytes) -> bytes:
    """Return what is signed of a statement: its type and its text, each behind its length.

    >>> signed_bytes(b"{}")
    b'DSSEv1 28 application/vnd.in-toto+json 2 {}'
    """
    kind = PAYLOAD_TYPE.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def dump_envelope(envelope: Envelope) -> bytes:
    """Return the text of an envelope, with a fixed layout."""
    signatures = [{"keyid": one.key_id, "sig": _encode(one.value)} for one in envelope.signatures]
    fields = {"payload": _encode(envelope.payload), "payloadType": PAYLOAD_TYPE, "signatures": signatures}
    return json.dumps(fields, indent=1).encode() + b"\n"


def read_envelope(path: pathlib.Path) -> Envelope:
    """Read an envelope.

    Raises:
      InputError: it is not, byte for byte, an envelope that ``dump_envelope`` writes.
    """
    fields = read_json_object(path, "envelope")
    try:
        signatures = tuple(Signature(one["keyid"], _decode(one["sig"])) for one in fields["signatures"])
        envelope = Envelope(_decode(fields["payload"]), signatures)
        as_written = path.read_bytes() == dump_envelope(envelope)
    except (KeyError, TypeError, ValueError, AttributeError, binascii.Error):
        as_written = False
    if not as_written:
        raise InputError(f"{path.name}: is not an envelope as nlsr attest writes it; it was changed")
    return envelope


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _decode(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
