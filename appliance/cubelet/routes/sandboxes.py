"""Sandboxes of this node."""

from __future__ import annotations

from fastapi import APIRouter, Response

from appliance.contracts.node import (
    AccessToken,
    CreateSandbox,
    Deadline,
    NodeSandbox,
    Pause,
    Resume,
    Rollback,
    Snapshot,
    SnapshotTaken,
)
from appliance.contracts.node_network import NetworkPolicy
from appliance.cubelet.mapping import egress_policy, goal, new_sandbox, node_sandbox, wanted
from appliance.cubelet.runtime import VmRecord
from appliance.cubelet.services.pausing import Pausing
from appliance.cubelet.services.resuming import Resuming
from appliance.cubelet.services.rollbacks import Rollbacks
from appliance.cubelet.services.sampler import Sampler
from appliance.cubelet.services.sandboxes import Sandboxes
from appliance.cubelet.services.snapshots import Snapshots
from appliance.domain.ids import BuildId, SandboxId, TemplateId


def router(
    sandboxes: Sandboxes,
    pausing: Pausing,
    resuming: Resuming,
    snapshots: Snapshots,
    *,
    rollbacks: Rollbacks,
    sampler: Sampler,
) -> APIRouter:
    routes = APIRouter(prefix="/v1/sandboxes")

    def shown(record: VmRecord) -> NodeSandbox:
        return node_sandbox(record, sampled=sampler.watches(record), changing=sandboxes.is_changing(record))

    @routes.put("/{sandbox_id}")
    async def create(sandbox_id: str, body: CreateSandbox) -> NodeSandbox:
        record = await sandboxes.create(new_sandbox(sandbox_id, body))
        sampler.watch(record, body.access_token)
        return node_sandbox(record, sampled=True)

    @routes.get("")
    async def list_all() -> list[NodeSandbox]:
        return [shown(record) for record in sandboxes.list()]

    @routes.get("/{sandbox_id}")
    async def get(sandbox_id: str) -> NodeSandbox:
        return shown(sandboxes.get(SandboxId(sandbox_id)))

    @routes.put("/{sandbox_id}/deadline", status_code=204)
    async def set_deadline(sandbox_id: str, body: Deadline) -> Response:
        sandboxes.set_deadline(SandboxId(sandbox_id), body.end_at)
        return Response(status_code=204)

    @routes.put("/{sandbox_id}/access-token", status_code=204)
    async def set_access_token(sandbox_id: str, body: AccessToken) -> Response:
        sampler.watch(sandboxes.get(SandboxId(sandbox_id)), body.access_token)
        return Response(status_code=204)

    @routes.put("/{sandbox_id}/network", status_code=204)
    async def set_network(sandbox_id: str, body: NetworkPolicy) -> Response:
        await sandboxes.set_network(SandboxId(sandbox_id), egress_policy(body))
        return Response(status_code=204)

    @routes.post("/{sandbox_id}/pause", status_code=204)
    async def pause(sandbox_id: str, body: Pause) -> Response:
        await pausing.pause(SandboxId(sandbox_id), memory=body.memory, require_healthy=body.require_healthy_guest)
        return Response(status_code=204)

    @routes.post("/{sandbox_id}/resume")
    async def resume(sandbox_id: str, body: Resume) -> NodeSandbox:
        record = await resuming.resume(SandboxId(sandbox_id), wanted(body))
        sampler.watch(record, body.access_token)
        return node_sandbox(record, sampled=True)

    @routes.post("/{sandbox_id}/snapshot", status_code=201)
    async def snapshot(sandbox_id: str, body: Snapshot) -> SnapshotTaken:
        taken = await snapshots.take(
            SandboxId(sandbox_id),
            template_id=TemplateId(body.template_id),
            build_id=BuildId(body.build_id),
            memory=body.memory,
        )
        return SnapshotTaken(
            build_id=taken.build_id, envd_version=taken.meta.envd_version, disk_size_mib=taken.meta.disk_size_mib
        )

    @routes.post("/{sandbox_id}/rollback")
    async def roll_back(sandbox_id: str, body: Rollback) -> NodeSandbox:
        record = await rollbacks.roll_back(SandboxId(sandbox_id), goal(body))
        sampler.watch(record, body.access_token)
        return node_sandbox(record, sampled=True)

    @routes.delete("/{sandbox_id}", status_code=204)
    async def kill(sandbox_id: str) -> Response:
        await sandboxes.kill(SandboxId(sandbox_id))
        return Response(status_code=204)

    return routes
