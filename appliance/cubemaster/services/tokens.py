"""Tokens of sandboxes and volumes: derived, so that they survive everything and are stored nowhere."""

from __future__ import annotations

import hashlib
import hmac

from appliance.domain.ids import VolumeId
from appliance.domain.sandbox import Sandbox


class SandboxTokens:
    def __init__(self, seed: str) -> None:
        self._seed = seed.encode()

    def access(self, sandbox: Sandbox) -> str | None:
        """Return the token its guest agent demands; None where it is open."""
        return self._derive(sandbox.sandbox_id) if sandbox.secure else None

    def traffic(self, sandbox: Sandbox) -> str | None:
        """Return the token CubeProxy demands; None where anybody may reach its ports."""
        if sandbox.network.allow_public_traffic:
            return None
        return self._derive(f"sandbox-traffic-{sandbox.sandbox_id}")

    def traffic_sha256(self, sandbox: Sandbox) -> str | None:
        """Return what CubeProxy compares with: from Redis or a cache nobody shall learn the token."""
        token = self.traffic(sandbox)
        return None if token is None else hashlib.sha256(token.encode()).hexdigest()

    def _derive(self, text: str) -> str:
        return _derived(self._seed, text)


class VolumeTokens:
    """What opens the content of a volume. Ids are never used again, so a token dies with its volume."""

    def __init__(self, seed: str) -> None:
        self._seed = seed.encode()

    def of(self, volume_id: VolumeId) -> str:
        return _derived(self._seed, f"volume-content-{volume_id}")

    def opens(self, token: str, volume_id: VolumeId) -> bool:
        return hmac.compare_digest(token.encode(), self.of(volume_id).encode())


def _derived(seed: bytes, text: str) -> str:
    return hmac.new(seed, text.encode(), hashlib.sha256).hexdigest()
