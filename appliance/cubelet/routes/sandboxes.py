"""Sandboxes of this node."""

from __future__ import annotations

from fastapi import APIRouter, Response

from appliance.contracts.node import CreateSandbox, Deadline, NodeSandbox
from appliance.cubelet.mapping import new_sandbox, node_sandbox
from appliance.cubelet.services.sandboxes import Sandboxes
from appliance.domain.ids import SandboxId


def router(sandboxes: Sandboxes) -> APIRouter:
    routes = APIRouter(prefix="/v1/sandboxes")

    @routes.put("/{sandbox_id}")
    async def create(sandbox_id: str, body: CreateSandbox) -> NodeSandbox:
        return node_sandbox(await sandboxes.create(new_sandbox(sandbox_id, body)))

    @routes.get("")
    async def list_all() -> list[NodeSandbox]:
        return [node_sandbox(record) for record in sandboxes.list()]

    @routes.get("/{sandbox_id}")
    async def get(sandbox_id: str) -> NodeSandbox:
        return node_sandbox(sandboxes.get(SandboxId(sandbox_id)))

    @routes.put("/{sandbox_id}/deadline", status_code=204)
    async def set_deadline(sandbox_id: str, body: Deadline) -> Response:
        sandboxes.set_deadline(SandboxId(sandbox_id), body.end_at)
        return Response(status_code=204)

    @routes.delete("/{sandbox_id}", status_code=204)
    async def kill(sandbox_id: str) -> Response:
        await sandboxes.kill(SandboxId(sandbox_id))
        return Response(status_code=204)

    return routes
