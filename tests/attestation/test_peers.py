"""Our statements and envelopes in the hands of the libraries that others check them with, and theirs in ours."""

import json
import pathlib

import pytest

from nlsr_jax.attestation.envelope import PAYLOAD_TYPE, Envelope, Signature, dump_envelope, signed_bytes
from nlsr_jax.attestation.statement import dump, make_statement
from nlsr_jax.errors import InputError

pytest.importorskip("cryptography", reason="signatures need the extra attest")

from nlsr_jax.attestation.keys import is_signed, sign
from tests.attestation.keys import KINDS, save_keys

SEAL, DIGEST = "0" * 64, "1" * 64
RECORD = {
    "format": "nlsr_jax.realignment",
    "preset": "recommended",
    "settings": {"beta": 0.9, "base": "ü"},
    "key": {"seed": 0},
    "inputs": {"base": {"path": "/far/models--o--n/snapshots/" + "0a" * 20, "files": {"config.json": DIGEST}}},
    "outputs": {"adapter_config.json": DIGEST},
    "versions": {"nlsr_jax": "0.2.0"},
    "commit": "0b" * 20,
    "seal": SEAL,
}
BUNDLE = pathlib.Path(__file__).with_name("staging.sigstore.json")
"""A bundle of sigstore's staging services: a.dsse.staging-rekor-v2.txt.sigstore.json among the test assets of
sigstore-python, Apache License 2.0."""


@pytest.fixture(scope="module")
def payload():
    return dump(make_statement(RECORD, "realignment.json", DIGEST))


def test_the_statement_has_the_fields_of_in_toto_and_of_slsa(payload):
    """Read by their own descriptions of the messages, which refuse fields that they do not know."""
    json_format = pytest.importorskip("google.protobuf.json_format", reason="needs in-toto-attestation")
    statements = pytest.importorskip("in_toto_attestation.v1.statement", reason="needs in-toto-attestation")
    provenance = pytest.importorskip("in_toto_attestation.predicates.provenance.v1.provenance_pb2")
    statements.Statement.copy_from_pb(json_format.Parse(payload, statements.spb.Statement())).validate()
    predicate = json_format.ParseDict(json.loads(payload)["predicate"], provenance.Provenance())
    found = [one.name for one in predicate.build_definition.resolved_dependencies]
    assert found == ["base", "base/config.json", "nlsr_jax"]


@pytest.mark.parametrize("kind", KINDS)
def test_envelopes_are_those_of_securesystemslib(payload, tmp_path, kind):
    dsse = pytest.importorskip("securesystemslib.dsse", reason="needs securesystemslib")
    signers = pytest.importorskip("securesystemslib.signer")
    from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

    key, public = save_keys(tmp_path, kind)
    ours = json.loads(dump_envelope(Envelope(payload, (Signature(*sign(signed_bytes(payload), key)),))))
    known = signers.SSlibKey.from_crypto(load_pem_public_key(public.read_bytes()), ours["signatures"][0]["keyid"])
    assert dsse.Envelope.from_dict(ours).verify([known], 1)
    theirs = dsse.Envelope(payload, PAYLOAD_TYPE, {})
    signature = theirs.sign(signers.CryptoSigner(load_pem_private_key(key.read_bytes(), None), known))
    assert is_signed(signed_bytes(payload), bytes.fromhex(signature.signature), signature.keyid, public)


def test_a_signature_of_sigstore_is_checked_offline():
    """A published bundle, checked with the keys of the staging services that the library holds."""
    verification = pytest.importorskip("sigstore.verify", reason="needs the extra sigstore")
    from nlsr_jax.attestation.identity import signed_statement

    verifier = verification.Verifier.staging(offline=True)
    issuer = "https://token.actions.githubusercontent.com"
    project = "https://github.com/sigstore-conformance/extremely-dangerous-public-oidc-beacon"
    identity = f"{project}/.github/workflows/extremely-dangerous-oidc-beacon.yml@refs/heads/main"
    text = BUNDLE.read_bytes()
    statement = json.loads(signed_statement(text, identity, issuer, verifier))
    assert statement["subject"][0]["name"] == "a.txt"
    with pytest.raises(InputError, match="is not that of somebody@example"):
        signed_statement(text, "somebody@example.org", issuer, verifier)
    changed = json.loads(text)
    payload = changed["dsseEnvelope"]["payload"]
    changed["dsseEnvelope"]["payload"] = payload[:40] + ("A" if payload[40] != "A" else "B") + payload[41:]
    with pytest.raises(InputError, match="the signature is not that of"):
        signed_statement(json.dumps(changed).encode(), identity, issuer, verifier)


def test_sigstore_without_a_network_is_one_line(monkeypatch):
    pytest.importorskip("sigstore", reason="needs the extra sigstore")
    import socket

    from nlsr_jax.attestation.identity import sign_with_identity

    def refuse(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with pytest.raises(InputError, match="sigstore: cannot sign"):
        sign_with_identity(b"{}")
