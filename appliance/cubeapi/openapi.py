"""The OpenAPI document of CubeAPI: FastAPI's, with the errors as they are really answered.

FastAPI would promise its own 422 with `detail`. Here a bad request is a 400, and every error an ErrorBody.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from appliance.contracts.e2b_volumes import ContentError
from appliance.contracts.errors import ErrorBody
from appliance.cubeapi.content_errors import PREFIX

_ERROR_REF = {"$ref": "#/components/schemas/ErrorBody"}
_CONTENT_ERROR_REF = {"$ref": "#/components/schemas/ContentError"}
_MEANINGS = {
    "400": "The request breaks a rule of the interface",
    "401": "No credentials, or credentials that are not valid",
    "403": "Valid credentials that do not cover this",
    "404": "There is no such object for this caller",
    "409": "The object is in a state that does not allow this",
    "411": "An upload must say its length",
    "413": "An upload is larger than may be stored",
    "429": "A limit is reached, or too many attempts failed; Retry-After says when to try again",
    "500": "A step failed; nothing of it is left behind",
    "503": "Something this depends on is down or full; Should-Retry says whether waiting helps",
}
_ALWAYS = ("400", "401", "403", "429", "500", "503")
_OF_CHANGES = ("404", "409")
_OF_UPLOADS = ("411", "413")
_OPEN = "/.well-known/"
_OPERATOR = ("/nodes", "/admin")
_SECURITY_SCHEMES = {
    "ApiKeyAuth": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "BearerAuth": {"type": "http", "scheme": "bearer", "description": "The same API key as a Bearer token."},
    "AdminTokenAuth": {"type": "apiKey", "in": "header", "name": "X-Admin-Token"},
    "VolumeToken": {"type": "http", "scheme": "bearer", "description": "The token of one volume."},
    "AdminTeamAuth": {"type": "apiKey", "in": "header", "name": "X-Team-ID"},
}
_OF_TEAMS: list[dict[str, list[str]]] = [
    {"ApiKeyAuth": []},
    {"BearerAuth": []},
    {"AdminTokenAuth": [], "AdminTeamAuth": []},
]


def describe(app: FastAPI) -> None:
    """Let `app` serve the document that tells its answers as they are."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]  # FastAPI's documented way to replace it


def _document(app: FastAPI) -> dict[str, Any]:
    made = get_openapi(title=app.title, version=app.version, routes=app.routes)
    schemas = made.setdefault("components", {}).setdefault("schemas", {})
    for theirs in ("HTTPValidationError", "ValidationError"):
        schemas.pop(theirs, None)
    schemas["ErrorBody"] = ErrorBody.model_json_schema()
    schemas["ContentError"] = ContentError.model_json_schema()
    made["components"]["securitySchemes"] = _SECURITY_SCHEMES
    for path, operations in made["paths"].items():
        for method, operation in operations.items():
            _tell(path, method, operation)
    return made


def _tell(path: str, method: str, operation: dict[str, Any]) -> None:
    responses = operation["responses"]
    responses.pop("422", None)
    for answer in responses.values():
        if answer.get("content") == {"application/json": {"schema": {}}}:
            # A route that answers without a body.
            del answer["content"]
    if path == "/health":
        return
    if path.startswith(_OPEN):
        _may_fail(responses, ("500", "503"), _ERROR_REF)
        return
    operation["security"] = _security(path)
    error = _CONTENT_ERROR_REF if path.startswith(PREFIX) else _ERROR_REF
    names_something = "{" in path or method != "get"
    is_upload = method == "put" and path.endswith("/files/{files_hash}")
    statuses = (*_ALWAYS, *(_OF_CHANGES if names_something else ()), *(_OF_UPLOADS if is_upload else ()))
    _may_fail(responses, statuses, error)


def _may_fail(responses: dict[str, Any], statuses: Iterable[str], error: dict[str, str]) -> None:
    for status in statuses:
        responses.setdefault(
            status, {"description": _MEANINGS[status], "content": {"application/json": {"schema": error}}}
        )


def _security(path: str) -> list[dict[str, list[str]]]:
    if path.startswith(_OPERATOR):
        return [{"AdminTokenAuth": []}]
    return [{"VolumeToken": []}] if path.startswith(PREFIX) else _OF_TEAMS
