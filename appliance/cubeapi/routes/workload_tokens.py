"""What services need to check workload tokens: public, as OpenID Connect has it, so that clouds know where to look."""

from __future__ import annotations

from fastapi import APIRouter, Response

from appliance.clients.master import MasterClient
from appliance.contracts import e2b_network as e2b
from appliance.cubeapi.mapping_network import KEYS_PATH, openid_configuration

_FRESH_S = 300
"""How long it may be kept by whoever asked."""


def router(master: MasterClient) -> APIRouter:
    routes = APIRouter()

    def may_be_kept(response: Response) -> None:
        response.headers["Cache-Control"] = f"public, max-age={_FRESH_S}"

    @routes.get("/.well-known/openid-configuration")
    async def configuration(response: Response) -> e2b.OpenIdConfiguration:
        may_be_kept(response)
        return openid_configuration(await master.get_signing_keys())

    @routes.get(KEYS_PATH)
    async def keys(response: Response) -> e2b.JsonWebKeySet:
        may_be_kept(response)
        found = await master.get_signing_keys()
        return e2b.JsonWebKeySet(keys=tuple(e2b.JsonWebKey.model_validate(one) for one in found.keys))

    return routes
