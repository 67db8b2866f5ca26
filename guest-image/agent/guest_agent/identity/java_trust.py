"""The authorities that Java trusts, in the form of Java's own key stores, where the image has them so (Debian's does).

https://docs.oracle.com/javase/8/docs/technotes/guides/security/crypto/CryptoSpec.html
"""

from __future__ import annotations

import hashlib
import struct

_MAGIC = struct.pack(">II", 0xFEEDFEED, 2)
_TRUSTED_CERTIFICATE = 2
# Java reads its own store without one, and anybody may know the authorities: the digest only shows damage.
_PASSWORD = "changeit"  # noqa: S105 - the one that every Java comes with
_SALT = b"Mighty Aphrodite"
_DIGEST_BYTES = 20
_OWN = "e2b-ca-"


def with_certificates(store: bytes, certificates: list[bytes]) -> bytes:
    """Return the store with these DER certificates in the place of those that this function added before.

    Raises ValueError for what is no store of nothing but trusted certificates, under Java's usual password.
    """
    content, digest = store[:-_DIGEST_BYTES], store[-_DIGEST_BYTES:]
    if not content.startswith(_MAGIC) or _digest(content) != digest:
        raise ValueError("no JKS store with the usual password")
    kept = [entry for alias, entry in _entries(content[len(_MAGIC) :]) if not alias.startswith(_OWN)]
    own = [_entry(f"{_OWN}{number}", certificate) for number, certificate in enumerate(certificates)]
    content = _MAGIC + struct.pack(">I", len(kept) + len(own)) + b"".join((*kept, *own))
    return content + _digest(content)


def _entries(data: bytes) -> list[tuple[str, bytes]]:
    """Return (alias, all bytes) of each entry."""
    found = []
    try:
        (count,) = struct.unpack_from(">I", data)
        at = 4
        for _ in range(count):
            begin = at
            tag, size = struct.unpack_from(">IH", data, at)
            if tag != _TRUSTED_CERTIFICATE:
                raise ValueError("a store with private keys")
            alias = data[at + 6 : at + 6 + size].decode()
            at += 6 + size + 8  # date
            (size,) = struct.unpack_from(">H", data, at)
            at += 2 + size  # kind
            (size,) = struct.unpack_from(">I", data, at)
            at += 4 + size
            found.append((alias, data[begin:at]))
    except struct.error as error:
        raise ValueError("a store that ends early") from error
    if at != len(data):
        raise ValueError("a store of another length than it says")
    return found


def _entry(alias: str, certificate: bytes) -> bytes:
    # Without a date: the same certificates make the same store.
    return (
        struct.pack(">I", _TRUSTED_CERTIFICATE)
        + _text(alias)
        + bytes(8)
        + _text("X.509")
        + struct.pack(">I", len(certificate))
        + certificate
    )


def _text(value: str) -> bytes:
    encoded = value.encode()
    return struct.pack(">H", len(encoded)) + encoded


def _digest(content: bytes) -> bytes:
    return hashlib.sha1(_PASSWORD.encode("utf-16-be") + _SALT + content).digest()  # noqa: S324 - its form
