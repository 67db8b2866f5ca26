"""Private keys on the curve P-256 that are made from other secrets, and so need not be stored."""

from __future__ import annotations

from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

WIDE_BYTES: Final = 48
"""128 bits more than the order of the curve has: no key is likelier than another."""
_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def wide_secret(seed: bytes, *, purpose: bytes) -> bytes:
    """Return `WIDE_BYTES` that belong to `purpose`: neither the seed nor those of another are found from them."""
    return HKDF(algorithm=SHA256(), length=WIDE_BYTES, salt=None, info=purpose).derive(seed)


def private_key(wide: bytes) -> ec.EllipticCurvePrivateKey:
    """Return the key that `wide`, as `wide_secret` returns it, stands for."""
    return ec.derive_private_key(int.from_bytes(wide, "big") % (_ORDER - 1) + 1, ec.SECP256R1())
