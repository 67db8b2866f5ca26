"""Secrets at rest: AES-256-GCM under a key that the database never sees.

The place a value was sealed for is authenticated with it: a row copied elsewhere, by whoever can write to the database,
does not open.
"""

from __future__ import annotations

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from appliance.domain.errors import CubeError

_NONCE_BYTES = 12
_KEY_BYTES = 32
_FORMAT = b"\x01"
"""First byte of what is stored: tells later ways to seal apart."""


class SealBroken(CubeError):
    """What is stored was not sealed for this place with this key."""


class Sealer:
    def __init__(self, key_hex: str) -> None:
        """Take the key as 64 hex digits; raises ValueError."""
        key = bytes.fromhex(key_hex)
        if len(key) != _KEY_BYTES:
            raise ValueError(f"the key of secrets has {len(key)} bytes in place of {_KEY_BYTES}")
        self._cipher = AESGCM(key)

    def seal(self, value: str, *, place: str) -> bytes:
        nonce = os.urandom(_NONCE_BYTES)
        return _FORMAT + nonce + self._cipher.encrypt(nonce, value.encode(), place.encode())

    def open(self, sealed: bytes, *, place: str) -> str:
        """Return the value, or raise SealBroken."""
        nonce, text = sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :]
        try:
            if sealed[:1] != _FORMAT:
                raise InvalidTag
            return self._cipher.decrypt(nonce, text, place.encode()).decode()
        except (InvalidTag, ValueError) as error:
            raise SealBroken(f"{place} cannot be opened; was `secrets-key` of CubeMaster replaced?") from error


def secret_place(secret_id: str, version: int) -> str:
    """Return where the value of one version of a secret is kept."""
    return f"{secret_id}/{version}"


def rules_place(sandbox_id: str) -> str:
    """Return where the rules of a sandbox that may hold credentials are kept."""
    return f"rules of sandbox {sandbox_id}"
