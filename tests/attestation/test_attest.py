"""A statement that was signed, changed by one byte, and refused."""

import base64
import json
import shutil

import numpy as np
import pytest

from nlsr_jax.attestation.checking import Signer
from nlsr_jax.attestation.statement import unpinned
from nlsr_jax.errors import InputError
from nlsr_jax.files.ownership import foreign_folder
from nlsr_jax.formats import record as records
from nlsr_jax.pipeline import Settings, identify_files, realign_files
from nlsr_jax.pipeline.attesting import attest
from nlsr_jax.pipeline.verification import verify
from tests.adapter_files import save_inputs
from tests.e2e.command import error_line, python
from tests.hub_cache import commit_of, put_into_cache
from tests.reliability.flips import flip

pytest.importorskip("cryptography", reason="signatures need the extra attest")

from tests.attestation.keys import KINDS, save_keys

STATEMENT, ENVELOPE = "attestation.json", "attestation.dsse.json"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return save_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def written(inputs):
    given = {name: str(inputs / name) for name in ("aligned", "finetuned")}
    realign_files(Settings(**given, method="magnitude"), inputs / "out")
    return inputs / "out"


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    return save_keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def attested(written, keys):
    folder = shutil.copytree(written, written.parent / "attested")
    attest(folder, key=keys[0])
    return folder


@pytest.fixture
def output(attested, tmp_path):
    return shutil.copytree(attested, tmp_path / "out")


def test_the_statement_names_every_file_and_every_input(attested):
    statement = json.loads((attested / STATEMENT).read_text())
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    record = json.loads((attested / "realignment.json").read_text())
    there = {file.relative_to(attested).as_posix() for file in attested.rglob("*") if file.is_file()}
    digests = {one["name"]: one["digest"]["sha256"] for one in statement["subject"]}
    assert set(digests) == there - {STATEMENT, ENVELOPE}
    assert digests == {name: records.sha256(attested / name) for name in digests}
    definition = statement["predicate"]["buildDefinition"]
    assert definition["externalParameters"]["settings"] == record["settings"]
    found = {one["name"]: one["digest"] for one in definition["resolvedDependencies"]}
    for name, entry in record["inputs"].items():
        for file, digest in (entry or {"files": {}})["files"].items():
            assert found[f"{name}/{file}"] == {"sha256": digest}


def test_a_signed_output_is_as_attested_with_and_without_its_key(attested, keys):
    found = verify(attested, signer=Signer(str(keys[1])))
    assert (found.changed, found.missing) == ((), ())
    (note,) = verify(attested).missing
    assert note == f"{ENVELOPE}: the signature was not checked; give --public_key"


def test_one_changed_byte_anywhere_is_refused(output, keys):
    """In the statement, in the envelope, in the record and in every output, at random places."""
    random = np.random.default_rng(0)
    signer = Signer(str(keys[1]))
    for path in sorted(file for file in output.rglob("*") if file.is_file() and file.stat().st_size):
        name, before = path.relative_to(output).as_posix(), path.read_bytes()
        for place in random.integers(0, 8 * len(before), 40 if name in (STATEMENT, ENVELOPE) else 2):
            flip(path, int(place))
            try:
                changed = verify(output, signer=signer).changed
            except InputError as error:  # a record that is no JSON any more
                assert name == "realignment.json"
                changed = (str(error),)
            path.write_bytes(before)
            assert [line for line in changed if name in line], (name, place)
    assert not verify(output, signer=signer).changed


def test_every_byte_of_an_envelope_counts(output, keys):
    """Unused bits of its base64 text and the identifier of its key too, which the signature does not cover."""
    before = (output / ENVELOPE).read_bytes()
    place = before.rindex(b'"sig"')
    for i in [*range(place, len(before)), *range(before.rindex(b'"keyid"'), place, 7)]:
        (output / ENVELOPE).write_bytes(before[:i] + bytes([before[i] ^ 1]) + before[i + 1 :])
        assert len(verify(output, signer=Signer(str(keys[1]))).changed) == 1, i


def test_whoever_rewrites_everything_cannot_sign_it(output, keys, tmp_path):
    """A new record, sealed anew, with a new statement: consistent, and signed by somebody else."""
    record = json.loads((output / "realignment.json").read_text())
    del record["seal"]
    record["settings"]["beta"] = 0.8
    record["seal"] = records.seal(record)
    (output / "realignment.json").write_text(records.dump(record))
    (line,) = verify(output, signer=Signer(str(keys[1]))).changed
    assert line == f"{STATEMENT}: was changed: its digest of realignment.json is not the one of this output"
    attest(output, overwrite=True)
    (line,) = verify(output, signer=Signer(str(keys[1]))).changed
    assert line == f"{ENVELOPE}: signs another statement than {STATEMENT}"
    attest(output, key=save_keys(tmp_path / "other")[0], overwrite=True)
    assert not verify(output).changed
    (line,) = verify(output, signer=Signer(str(keys[1]))).changed
    assert line == f"{ENVELOPE}: the signature is not that of {keys[1]} for {STATEMENT}"
    (output / ENVELOPE).unlink()
    assert verify(output, signer=Signer(str(keys[1]))).changed == (
        f"{ENVELOPE}: is missing; nlsr attest writes it",
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_key_makes_the_same_signature(written, tmp_path, kind):
    key, public = save_keys(tmp_path, kind)
    made = []
    for name in ("one", "two"):
        attest(shutil.copytree(written, tmp_path / name), key=key)
        assert not verify(tmp_path / name, signer=Signer(str(public))).changed
        made.append((tmp_path / name / ENVELOPE).read_bytes())
    assert made[0] == made[1]


def test_a_file_that_is_too_large_is_not_read(output, monkeypatch):
    import dataclasses

    from nlsr_jax.attestation import checking

    monkeypatch.setattr(checking, "LIMITS", dataclasses.replace(checking.LIMITS, json_bytes=100))
    lines = verify(output).changed
    assert lines == tuple(
        f"{name}: has more than 100 bytes (NLSR_MAX_JSON_BYTES)" for name in (STATEMENT, ENVELOPE)
    )


def test_an_attested_output_is_this_projects_own(output):
    assert foreign_folder(output) is None
    (output / STATEMENT).write_text('{"mine": 1}')
    assert STATEMENT in foreign_folder(output)


def test_a_users_file_is_not_replaced(written, tmp_path, keys):
    new = shutil.copytree(written, tmp_path / "new")
    (new / ENVELOPE).write_text('{"mine": 1}')
    with pytest.raises(InputError, match="this file is not a JSON object with payload, payloadType, signatures"):
        attest(new, key=keys[0], overwrite=True)
    (new / ENVELOPE).unlink()
    (new / ENVELOPE).symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(InputError, match="exists and is not a file"):
        attest(new, key=keys[0], overwrite=True)
    assert not (new / STATEMENT).exists()


def test_what_cannot_be_attested_is_one_line(output, written, tmp_path, keys, monkeypatch):
    from cryptography.hazmat.primitives.asymmetric import rsa

    locked, _ = save_keys(tmp_path / "locked", password=b"secret")
    large, _ = save_keys(tmp_path / "rsa", make=lambda: rsa.generate_private_key(65537, 2048))
    new = shutil.copytree(written, tmp_path / "new")
    for given, message in (
        ({"key": tmp_path / "none.pem"}, "none.pem: no such file; expected the PEM file of a private key"),
        ({"key": keys[1]}, "key.pub: holds no private key in PEM"),
        ({"key": large}, "holds a key of another kind; expected Ed25519, or ECDSA on P-256 or P-384"),
        ({"key": locked}, "the private key is encrypted; set NLSR_KEY_PASSWORD"),
    ):
        with pytest.raises(InputError, match=message):
            attest(new, **given)
        assert not (new / STATEMENT).exists()
    monkeypatch.setenv("NLSR_KEY_PASSWORD", "secret")
    attest(new, key=locked)
    with pytest.raises(InputError, match="output exists; name another or give --overwrite"):
        attest(output, key=keys[0])
    flip(output / "adapter_model.safetensors", 9999)
    with pytest.raises(InputError, match=r"adapter_model\.safetensors: has changed"):
        attest(output, key=keys[0], overwrite=True)


def test_revisions_of_the_hub_are_pinned(inputs, tmp_path):
    """A snapshot's commit stands in the statement; rows of the hub count as pinned with their revision alone."""
    snapshot = put_into_cache(tmp_path / "hub", "someone/aligned", inputs / "aligned")
    identify_files(Settings(aligned=str(snapshot), method="magnitude"), tmp_path / "out")
    attest(tmp_path / "out")
    statement = json.loads((tmp_path / "out" / STATEMENT).read_text())
    assert statement["predicate"]["buildDefinition"]["buildType"] == "urn:nlsr-jax:identification:v1"
    first, *files = statement["predicate"]["buildDefinition"]["resolvedDependencies"]
    pinned = f"pkg:huggingface/someone/aligned@{commit_of('someone/aligned')}"
    assert first == {"name": "aligned", "uri": pinned, "digest": {"gitCommit": commit_of("someone/aligned")}}
    assert files[0]["uri"] == f"{pinned}#adapter_config.json"
    record = {"inputs": {"calibration": {"path": "someone/rows", "files": {}}, "base": None}}
    assert unpinned(record) == ["calibration: someone/rows"]
    record["inputs"]["calibration"]["path"] = f"someone/rows@{'0a' * 20}"
    assert unpinned(record) == []


def test_command(output, written, tmp_path, keys):
    new = shutil.copytree(written, tmp_path / "new")
    done = python("-m", "nlsr_jax", "attest", new, "--key", keys[0])
    assert done.stdout == f"wrote {new / STATEMENT} and {new / ENVELOPE}\n"
    assert "files are as recorded" in python("-m", "nlsr_jax", "verify", new, "--public_key", keys[1]).stdout
    text = json.loads((new / ENVELOPE).read_text())
    payload = base64.b64decode(text["payload"]).replace(b'"seed": 0', b'"seed": 1')
    text["payload"] = base64.b64encode(payload).decode()
    (new / ENVELOPE).write_text(json.dumps(text, indent=1) + "\n")
    found = python("-m", "nlsr_jax", "verify", new, "--public_key", keys[1], check=False)
    assert found.stdout == f"changed: {ENVELOPE}: signs another statement than {STATEMENT}\n"
    assert error_line(found).endswith("1 things are not as recorded")
