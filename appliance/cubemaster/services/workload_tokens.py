"""Workload tokens: JWT-SVIDs that say which sandbox a request comes from, signed by CubeMaster.

The key is derived, as the tokens of sandboxes are: every CubeMaster has the same one, and it is stored nowhere.
"""

from __future__ import annotations

import base64
import hashlib
import json
import uuid

import jwt
from cryptography.hazmat.primitives.asymmetric import ec

from appliance.common import p256
from appliance.common.clock import Clock
from appliance.domain.sandbox import Sandbox
from appliance.domain.workload_token import LIFETIME

ALGORITHM = "ES256"


class WorkloadTokens:
    def __init__(self, secrets_key: str, *, domain: str, clock: Clock) -> None:
        """Take the key as hex digits; raises ValueError."""
        self._domain = domain
        self._clock = clock
        self._key = p256.private_key(p256.wide_secret(bytes.fromhex(secrets_key), purpose=b"workload tokens, ES256"))
        self._jwk = _jwk(self._key.public_key())
        self.issuer = f"https://api.{domain}"

    @property
    def public_keys(self) -> tuple[dict[str, str], ...]:
        """JSON Web Keys."""
        return (self._jwk,)

    def sign(self, sandbox: Sandbox, audience: str) -> str:
        now = int(self._clock.now().timestamp())
        claims = {
            "iss": self.issuer,
            "sub": f"spiffe://{self._domain}/team/{sandbox.team_id}/sandbox/{sandbox.sandbox_id}",
            "aud": audience,
            "iat": now,
            "exp": now + int(LIFETIME.total_seconds()),
            "jti": str(uuid.uuid4()),
        }
        return jwt.encode(claims, self._key, algorithm=ALGORITHM, headers={"kid": self._jwk["kid"]})


def _jwk(key: ec.EllipticCurvePublicKey) -> dict[str, str]:
    numbers = key.public_numbers()
    shape = {"crv": "P-256", "kty": "EC", "x": _encoded(numbers.x), "y": _encoded(numbers.y)}
    # RFC 7638: of the members a key must have, in this order and without spaces.
    thumbprint = hashlib.sha256(json.dumps(shape, separators=(",", ":")).encode()).digest()
    return {**shape, "use": "sig", "alg": ALGORITHM, "kid": _base64url(thumbprint)}


def _encoded(number: int) -> str:
    return _base64url(number.to_bytes(32, "big"))


def _base64url(octets: bytes) -> str:
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()
