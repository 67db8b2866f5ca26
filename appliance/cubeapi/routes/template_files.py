"""Files that builds copy in: whether they are there, and their upload, which passes through as it comes."""

# No postponed annotations: the routes' dependencies are local names, which FastAPI could not look up later.

from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from appliance.clients.master import MasterClient
from appliance.contracts import e2b_templates as e2b
from appliance.contracts.master import ResolvedKey
from appliance.cubeapi.auth import Authenticator
from appliance.cubeapi.base_url import base_url
from appliance.cubeapi.settings import CubeApiSettings
from appliance.domain.errors import InvalidRequest, LengthRequired, Unauthenticated

_UPLOAD_DEADLINE = timedelta(hours=1)
"""What SDKs give an upload."""


def router(master: MasterClient, authenticate: Authenticator, settings: CubeApiSettings) -> APIRouter:
    routes = APIRouter()
    key_of = Depends(authenticate)

    @routes.get("/templates/{reference:path}/files/{files_hash}", status_code=201)
    async def ask(
        reference: str, files_hash: str, request: Request, key: Annotated[ResolvedKey, key_of]
    ) -> e2b.FileUpload:
        leave = await master.ask_upload(reference, files_hash, team_id=key.team_id)
        # Under the address that the client itself came by: it reaches that one.
        url = (
            f"{base_url(request, domain=settings.domain)}/templates/{leave.template_id}/files/{files_hash}"
            f"?expires={leave.expires}&signature={leave.signature}"
        )
        return e2b.FileUpload(present=leave.present, url=url)

    # The signed address is all the credentials there are: SDKs send no key along.
    @routes.put("/templates/{template_id}/files/{files_hash}")
    async def put(
        template_id: str, files_hash: str, request: Request, expires: str = "", signature: str = ""
    ) -> Response:
        if not expires or not signature:
            raise Unauthenticated(
                f"upload to the url that GET /templates/{template_id}/files/{files_hash} answers with"
            )
        if not expires.isdecimal() or len(expires) > 12:
            raise InvalidRequest("Invalid expires: it is part of the url to upload to, and not to be changed")
        length = request.headers.get("content-length")
        if length is None:
            raise LengthRequired("an upload must have a Content-Length; chunked ones are not taken")
        await master.upload(
            template_id,
            files_hash,
            request.stream(),
            length=int(length),
            expires=expires,
            signature=signature,
            deadline=_UPLOAD_DEADLINE,
        )
        return Response(status_code=200)

    return routes
