"""Access tokens, which E2B has given up for API keys and which never existed here."""

# No postponed annotations: the routes' dependencies are local names, which FastAPI could not look up later.

from uuid import UUID

from fastapi import APIRouter, Depends

from appliance.contracts.errors import ErrorBody
from appliance.cubeapi.auth import Authenticator
from appliance.domain.errors import Gone, InvalidRequest, NotFound


def router(authenticate: Authenticator) -> APIRouter:
    routes = APIRouter(prefix="/access-tokens", dependencies=[Depends(authenticate)])

    @routes.post("", status_code=410, response_model=ErrorBody)
    async def create() -> None:
        raise Gone("Creating new access tokens is disabled. E2B_ACCESS_TOKEN is deprecated; use an API key instead.")

    @routes.delete("/{token_id}", status_code=204)
    async def delete(token_id: str) -> None:
        try:
            UUID(token_id)
        except ValueError as error:
            raise InvalidRequest("Invalid access token ID") from error
        raise NotFound("id not found")

    return routes
