"""Hosts without systemd: a VMM has the session that it was started in, and no limits."""

from __future__ import annotations

from appliance.domain.ids import VmId
from appliance.hypervisor.scopes.base import Limits


class SessionScopes:
    async def adopt(self, vm_id: VmId, pid: int, limits: Limits) -> None:
        return

    async def close(self) -> None:
        return
