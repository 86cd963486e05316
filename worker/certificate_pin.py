"""Whom a worker talks to over TLS: the node whose key its token names, and no authority.

A *pin* is the SHA-256 of the SubjectPublicKeyInfo of the node's certificate (RFC 7469, section 2.4,
has it so), as base64url without padding.  It names the key and not the certificate: a certificate
that is renewed with the same key has the same pin, whatever its names, dates and issuer.

A token carries the pin, the worker keeps it beside its own key, and checks it when the handshake is
done and before a single byte of its own goes out: who stands in between learns neither token nor
proof.  What it replaces is the system's trust; names and dates in the certificate are not looked
at, since the key was named by the operator.
"""

import base64
import ssl
from hashlib import sha256
from pathlib import Path
from typing import Final

PIN_LENGTH: Final = 43
"""Characters of a pin: 32 bytes in base64 without padding."""


def pin_of(certificate: bytes) -> str:
    """Return the pin of a certificate in DER. Raises `ValueError` for what is none."""
    # Here, because a worker without TLS has no need of it: 40 ms and 10 MB.
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
    from cryptography.x509 import load_der_x509_certificate

    try:
        key = load_der_x509_certificate(certificate).public_key()
        info = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except UnsupportedAlgorithm as error:
        raise ValueError(f"a key of a kind that is not known: {error}") from error
    return base64.urlsafe_b64encode(sha256(info).digest()).decode().rstrip("=")


def pin_of_file(path: Path) -> str:
    """Return the pin of the first certificate in a PEM file. Raises `OSError`, `ValueError`."""
    text = path.read_text("ascii")
    start = text.index("-----BEGIN CERTIFICATE-----")
    end = text.index("-----END CERTIFICATE-----", start) + len("-----END CERTIFICATE-----")
    return pin_of(ssl.PEM_cert_to_DER_cert(text[start:end]))


def is_pin(text: str) -> bool:
    """Whether `text` has the form of a pin."""
    try:
        data = base64.urlsafe_b64decode(text + "=")
    except ValueError:
        return False
    canonical = base64.urlsafe_b64encode(data).decode().rstrip("=")
    return text == canonical and len(text) == PIN_LENGTH


def pinned_context() -> ssl.SSLContext:
    """Return what connects to anybody: who it is has to be checked by the pin, at once."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
