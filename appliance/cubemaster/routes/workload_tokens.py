from __future__ import annotations

from fastapi import APIRouter

from appliance.contracts.egress import SigningKeys
from appliance.cubemaster.services.workload_tokens import WorkloadTokens


def workload_tokens_router(tokens: WorkloadTokens) -> APIRouter:
    router = APIRouter(prefix="/v1")

    @router.get("/workload-token-keys")
    async def keys() -> SigningKeys:
        return SigningKeys(issuer=tokens.issuer, keys=tokens.public_keys)

    return router
