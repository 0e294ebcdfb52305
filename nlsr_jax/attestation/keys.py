"""Signatures with a key: Ed25519, or ECDSA on the curves P-256 and P-384.

Keys are PEM files. The library cryptography is an extra: ``pip install 'nlsr_jax[attest]'``.
"""

import hashlib
import os
import pathlib
from collections.abc import Callable
from typing import Any

from nlsr_jax.errors import InputError
from nlsr_jax.files.paths import expand, is_regular

PASSWORD = "NLSR_KEY_PASSWORD"
"""Environment variable with the password of an encrypted private key."""
_EXPECTED = "expected Ed25519, or ECDSA on P-256 or P-384"
_LARGEST = 2**20


def sign(data: bytes, key: str | os.PathLike) -> tuple[str, bytes]:
    """Sign bytes with a private key.

    Args:
      data: what to sign.
      key: PEM file of the private key.

    Returns:
      The identifier of the key, and the signature.

    Raises:
      InputError: a file that holds no such key.
    """
    from cryptography.exceptions import UnsupportedAlgorithm

    private = _private(key)
    try:  # an ECDSA signature that is the same in every run
        value = private.sign(data, *_scheme(private, key, deterministic_signing=True))
    except UnsupportedAlgorithm:  # by this OpenSSL
        value = private.sign(data, *_scheme(private, key))
    return _identifier(private.public_key()), value


def is_signed(data: bytes, signature: bytes, key_id: str, key: str | os.PathLike) -> bool:
    """Say whether a signature is that of a public key.

    Args:
      data: what was signed.
      signature: the signature.
      key_id: the identifier that stands beside it.
      key: PEM file of the public key.

    Raises:
      InputError: a file that holds no such key.
    """
    from cryptography.exceptions import InvalidSignature

    public = _public(key)
    try:
        public.verify(signature, data, *_scheme(public, key))
    except InvalidSignature:
        return False
    return key_id == _identifier(public)


def check_private_key(key: str | os.PathLike) -> None:
    """Raise InputError unless a file holds a private key that can sign."""
    _scheme(_private(key), key)


def _private(key) -> Any:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    secret = os.environ.get(PASSWORD)

    def load(data: bytes) -> Any:
        try:
            return load_pem_private_key(data, None if secret is None else secret.encode())
        except TypeError:
            if secret is None:
                raise
            return load_pem_private_key(data, None)  # not encrypted

    return _load(key, "private key", load)


def _public(key) -> Any:
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    return _load(key, "public key", load_pem_public_key)


def _load(key, what: str, load: Callable[[bytes], Any]) -> Any:
    from cryptography.exceptions import UnsupportedAlgorithm

    path = pathlib.Path(expand(key))
    if not is_regular(path) or path.stat().st_size > _LARGEST:
        raise InputError(f"{path}: no such file; expected the PEM file of a {what}")
    try:
        return load(path.read_bytes())
    except TypeError as error:
        raise InputError(f"{path}: the {what} is encrypted; set {PASSWORD}") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InputError(f"{path}: holds no {what} in PEM, or the password is wrong; {_EXPECTED}") from error


def _scheme(key, path, **options: bool) -> tuple:
    """Return the arguments that a key's methods take beside data and signature."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519

    if isinstance(key, ed25519.Ed25519PrivateKey | ed25519.Ed25519PublicKey):
        return ()
    size = getattr(getattr(key, "curve", None), "key_size", None)
    if not isinstance(key, ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey) or size not in (256, 384):
        raise InputError(f"{path}: holds a key of another kind; {_EXPECTED}")
    return (ec.ECDSA(hashes.SHA256() if size == 256 else hashes.SHA384(), **options),)


def _identifier(public) -> str:
    """Return the SHA-256 of a public key's DER form."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return hashlib.sha256(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()
