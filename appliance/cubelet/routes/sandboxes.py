"""Sandboxes of this node."""

from __future__ import annotations

from fastapi import APIRouter, Response

from appliance.contracts.node import AccessToken, CreateSandbox, Deadline, NodeSandbox
from appliance.cubelet.mapping import new_sandbox, node_sandbox
from appliance.cubelet.services.sampler import Sampler
from appliance.cubelet.services.sandboxes import Sandboxes
from appliance.domain.ids import SandboxId


def router(sandboxes: Sandboxes, sampler: Sampler) -> APIRouter:
    routes = APIRouter(prefix="/v1/sandboxes")

    @routes.put("/{sandbox_id}")
    async def create(sandbox_id: str, body: CreateSandbox) -> NodeSandbox:
        record = await sandboxes.create(new_sandbox(sandbox_id, body))
        sampler.watch(record, body.access_token)
        return node_sandbox(record, sampled=True)

    @routes.get("")
    async def list_all() -> list[NodeSandbox]:
        return [node_sandbox(record, sampled=sampler.watches(record)) for record in sandboxes.list()]

    @routes.get("/{sandbox_id}")
    async def get(sandbox_id: str) -> NodeSandbox:
        record = sandboxes.get(SandboxId(sandbox_id))
        return node_sandbox(record, sampled=sampler.watches(record))

    @routes.put("/{sandbox_id}/deadline", status_code=204)
    async def set_deadline(sandbox_id: str, body: Deadline) -> Response:
        sandboxes.set_deadline(SandboxId(sandbox_id), body.end_at)
        return Response(status_code=204)

    @routes.put("/{sandbox_id}/access-token", status_code=204)
    async def set_access_token(sandbox_id: str, body: AccessToken) -> Response:
        sampler.watch(sandboxes.get(SandboxId(sandbox_id)), body.access_token)
        return Response(status_code=204)

    @routes.delete("/{sandbox_id}", status_code=204)
    async def kill(sandbox_id: str) -> Response:
        await sandboxes.kill(SandboxId(sandbox_id))
        return Response(status_code=204)

    return routes
