"""Which Scopes this host can have."""

from __future__ import annotations

from pathlib import Path

from appliance.hypervisor.scopes.base import Scopes
from appliance.hypervisor.scopes.session import SessionScopes
from appliance.hypervisor.scopes.systemd import SystemdScopes

# Exists exactly where systemd is the init, see sd_booted(3).
_BOOTED_WITH_SYSTEMD = Path("/run/systemd/system")


def choose_scopes(marker: Path = _BOOTED_WITH_SYSTEMD) -> Scopes:
    return SystemdScopes() if marker.is_dir() else SessionScopes()
