"""The certificate authorities that Java trusts: those of the system, in the form of Java's own key stores.

Debian has a package run Java for this, which writes the time of day into every entry.
"""

from __future__ import annotations

import hashlib
import re
import ssl
import struct
from pathlib import Path

from image_build.commands import SOURCE_DATE_EPOCH

_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_MAGIC, _VERSION, _TRUSTED_CERTIFICATE = 0xFEEDFEED, 2, 2
# Java reads its own store without one, and anybody may know the authorities: the digest only shows damage.
_PASSWORD = "changeit"  # noqa: S105 - the one that every Java comes with
_SALT = b"Mighty Aphrodite"


def write(authorities: Path, store: Path) -> None:
    """Write a store of the certificates in a PEM file."""
    store.parent.mkdir(parents=True, exist_ok=True)
    store.write_bytes(key_store([ssl.PEM_cert_to_DER_cert(pem) for pem in _PEM.findall(authorities.read_text())]))


def key_store(certificates: list[bytes]) -> bytes:
    """Return a JKS store: https://docs.oracle.com/javase/8/docs/technotes/guides/security/crypto/CryptoSpec.html"""
    entries = b"".join(
        struct.pack(">I", _TRUSTED_CERTIFICATE)
        + _text(hashlib.sha256(certificate).hexdigest())
        + struct.pack(">Q", SOURCE_DATE_EPOCH * 1000)
        + _text("X.509")
        + struct.pack(">I", len(certificate))
        + certificate
        for certificate in sorted(certificates)
    )
    content = struct.pack(">III", _MAGIC, _VERSION, len(certificates)) + entries
    return content + hashlib.sha1(_PASSWORD.encode("utf-16-be") + _SALT + content).digest()  # noqa: S324 - its form


def _text(value: str) -> bytes:
    encoded = value.encode()
    return struct.pack(">H", len(encoded)) + encoded
