"""Settings of CubeAPI, from `/etc/cube/cube-api.toml`."""

from __future__ import annotations

from pydantic import Field

from appliance.common.settings import Settings


class AuthFailureSettings(Settings):
    """How often one client's address may fail to authenticate: a bucket of tokens, of which a failure takes one."""

    burst: int = Field(default=20, ge=1)
    per_s: float = Field(default=1.0, gt=0)
    """How fast the bucket fills again."""


class CubeApiSettings(Settings):
    host: str = "127.0.0.1"
    """Public clients come through CubeProxy: this address is for the machine itself."""
    port: int = Field(default=3000, ge=1, le=65535)
    master: str = "unix:///run/cube/cube-master/api.sock"
    domain: str = "cube.app"
    """Sandboxes are `<port>-<sandboxID>.<domain>`."""
    max_timeout_hours: int = Field(default=24, ge=1)
    key_cache_s: float = Field(default=1.0, ge=0)
    """How long a key may still be honoured after it was revoked. One in use is asked about in half of it."""
    admin_token: bool = False
    """Whether the unit has the credential `admin-token`, which is the operator's word on every team's behalf."""
    auth_failures: AuthFailureSettings = AuthFailureSettings()
    log_level: str = "info"
