"""Pairs of keys for tests."""

KINDS = ("ed25519", "p256", "p384")


def make_key(kind):
    """Return a new private key."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519

    if kind == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    return ec.generate_private_key({"p256": ec.SECP256R1, "p384": ec.SECP384R1}[kind]())


def save_keys(folder, kind="ed25519", password=None, make=None):
    """Write a pair of keys; returns the paths of the private and the public one."""
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        NoEncryption,
        PrivateFormat,
        PublicFormat,
    )

    private = make() if make else make_key(kind)
    hidden = NoEncryption() if password is None else BestAvailableEncryption(password)
    folder.mkdir(exist_ok=True, parents=True)
    (folder / "key.pem").write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, hidden))
    public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (folder / "key.pub").write_bytes(public)
    return folder / "key.pem", folder / "key.pub"
