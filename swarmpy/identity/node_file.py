"""`node.pem`: the private key, sealed, then the leaf, then the roots. Bytes in, bytes out.

The key is a block `SEALED PRIVATE KEY` of `nonce (12) | AES-256-GCM`, whose cipher key is HKDF-SHA256 of the newest
data key. The leaf, as it stands in the file, is authenticated with it: a key is good for its own certificate alone. A
plain `PRIVATE KEY` is read as well, for whoever replaces the file by hand (SIGHUP); the next write seals it.
"""

from __future__ import annotations

import base64
import secrets

from cryptography import x509
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from swarmpy.identity.certificates import pem

__all__ = ["has_plain_key", "is_sealed_with", "open_key", "seal_key", "split"]

BEGIN, END = b"-----BEGIN SEALED PRIVATE KEY-----\n", b"-----END SEALED PRIVATE KEY-----\n"
CERTIFICATE = b"-----BEGIN CERTIFICATE-----"
NONCE_BYTES = 12
PURPOSE = b"swarmpy node key 1"


def split(data: bytes) -> tuple[bytes, x509.Certificate, bytes]:
    """The key as it stands there, the leaf, and the roots (PEM). Raises ValueError."""
    leaf, *roots = x509.load_pem_x509_certificates(data)
    if not roots:
        raise ValueError("there is no root certificate in it")
    return data[: data.index(CERTIFICATE)], leaf, b"".join(pem(root) for root in roots)


def has_plain_key(text: bytes) -> bool:
    """Whether the key part of a file is not sealed."""
    return not text.startswith(BEGIN)


def seal_key(private_key: bytes, leaf: bytes, data_key: bytes) -> bytes:
    """The key part of a file: `private_key` (PEM) of the certificate `leaf` (PEM)."""
    nonce = secrets.token_bytes(NONCE_BYTES)
    sealed = nonce + _cipher(data_key).encrypt(nonce, private_key, PURPOSE + leaf)
    return BEGIN + base64.encodebytes(sealed) + END


def open_key(text: bytes, leaf: bytes, data_keys: tuple[bytes, ...]) -> bytes:
    """The private key (PEM). Raises ValueError when no data key opens it."""
    if has_plain_key(text):
        return text
    sealed = base64.b64decode(text.removeprefix(BEGIN).partition(END)[0])
    for data_key in data_keys:
        try:
            return _cipher(data_key).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], PURPOSE + leaf)
        except InvalidTag:
            continue                            # sealed with an older one, perhaps
    raise ValueError("its private key was changed, or sealed with a data key that is not there")


def is_sealed_with(text: bytes, leaf: bytes, data_key: bytes) -> bool:
    """Whether this data key, and no other, opens the key part of a file."""
    try:
        open_key(text, leaf, (data_key,))
    except ValueError:
        return False
    return True


def _cipher(data_key: bytes) -> AESGCM:
    return AESGCM(HKDF(SHA256(), 32, None, PURPOSE).derive(data_key))
