"""Signatures with an identity, by sigstore: a short-lived certificate, and an entry in a public log.

The library sigstore is an extra: ``pip install 'nlsr_jax[sigstore]'``. Signing needs the network.
"""

import os
from typing import Any

from nlsr_jax.errors import InputError

TOKEN = "SIGSTORE_IDENTITY_TOKEN"
"""Environment variable with an identity token; without it the machine's own, or a login in the browser."""


def sign_with_identity(statement: bytes) -> str:
    """Sign a statement as who runs this program.

    Args:
      statement: its bytes.

    Returns:
      A sigstore bundle as JSON text.

    Raises:
      InputError: no identity, or a service that cannot be reached.
    """
    from sigstore.dsse import Statement
    from sigstore.models import ClientTrustConfig
    from sigstore.oidc import IdentityToken
    from sigstore.sign import SigningContext

    try:
        trust = ClientTrustConfig.production()
        context = SigningContext.from_trust_config(trust)
        with context.signer(IdentityToken(_token(trust))) as signer:
            return signer.sign_dsse(Statement(statement)).to_json()
    except Exception as error:  # of the library, the network and the services
        raise InputError(f"sigstore: cannot sign ({_reason(error)})") from error


def _token(trust: Any) -> str:
    from sigstore.oidc import Issuer, detect_credential

    found = os.environ.get(TOKEN) or detect_credential()
    return found or str(Issuer(trust.signing_config.get_oidc_url()).identity_token())


def signed_statement(bundle: bytes, identity: str, issuer: str, verifier: Any = None) -> bytes:
    """Return the statement that an identity has signed.

    Args:
      bundle: JSON text of a sigstore bundle.
      identity: the signer's address or workflow, as the certificate names it.
      issuer: URL of the identity's issuer.
      verifier: a ``sigstore.verify.Verifier``; None for that of the public services.

    Raises:
      InputError: a bundle that cannot be read, or a signature that is not this identity's.
    """
    from sigstore.models import Bundle
    from sigstore.verify.policy import Identity

    try:
        policy = Identity(identity=identity, issuer=issuer)
        return (verifier or _verifier()).verify_dsse(Bundle.from_json(bundle), policy)[1]
    except Exception as error:  # of the library and the network
        raise InputError(f"the signature is not that of {identity} ({_reason(error)})") from error


def _verifier() -> Any:
    """Return a verifier with the newest keys of the services, or offline with those that the library holds."""
    from sigstore.verify import Verifier

    try:
        return Verifier.production()
    except Exception:
        return Verifier.production(offline=True)


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
