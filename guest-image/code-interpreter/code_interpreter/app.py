"""The HTTP interface of the code interpreter, as E2B's code interpreter SDKs call it."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from code_interpreter.context import Context
from code_interpreter.environment import SandboxEnvironment
from code_interpreter.errors import (
    AmbiguousContext,
    ContextNotFound,
    InterpreterError,
    InvalidRequest,
    LanguageNotInstalled,
)
from code_interpreter.execution import Emit
from code_interpreter.jupyter import JupyterServer
from code_interpreter.languages import PYTHON
from code_interpreter.registry import ContextRegistry
from code_interpreter.settings import Settings
from code_interpreter.stream import EventStream

_STATUS_OF_ERROR: dict[type[InterpreterError], int] = {
    AmbiguousContext: 400,
    ContextNotFound: 404,
    InvalidRequest: 422,
    LanguageNotInstalled: 400,
}


def create_app(settings: Settings) -> Starlette:
    """Return the application. It serves only once the default contexts are ready for a cell."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        # Both neighbours are on loopback: a proxy of the user's must not come between.
        async with aiohttp.ClientSession(trust_env=False) as session:
            jupyter = JupyterServer(session, settings.jupyter_url)
            await jupyter.wait_until_ready()
            registry = ContextRegistry(jupyter, settings.home, settings.inherited_environment)
            app.state.home = settings.home
            app.state.registry = registry
            app.state.environment = SandboxEnvironment(session, settings.envs_url)
            try:
                await registry.start()
                yield
            finally:
                await registry.close()

    return Starlette(
        routes=[
            Route("/health", health),
            Route("/execute", execute, methods=["POST"]),
            Route("/contexts", create_context, methods=["POST"]),
            Route("/contexts", list_contexts),
            Route("/contexts/{context_id}/restart", restart_context, methods=["POST"]),
            Route("/contexts/{context_id}", remove_context, methods=["DELETE"]),
        ],
        exception_handlers={InterpreterError: answer_error},
        lifespan=lifespan,
    )


async def health(_: Request) -> Response:
    return JSONResponse("OK")


async def execute(request: Request) -> ASGIApp:
    body = await _object(request)
    code = _text(body, "code")
    if code is None:
        raise InvalidRequest("code is required")
    variables = _variables(body)
    context = await _registry(request).choose(_text(body, "context_id"), _text(body, "language"))
    environment: SandboxEnvironment = request.app.state.environment
    sandbox = await environment.variables(request.headers.get("x-access-token"))

    async def produce(emit: Emit) -> None:
        await context.execute(code, sandbox=sandbox, variables=variables, emit=emit)

    return EventStream(produce)


async def create_context(request: Request) -> Response:
    body = await _object(request)
    language = _text(body, "language") or PYTHON.name
    cwd = _text(body, "cwd")
    home: Path = request.app.state.home
    return JSONResponse(_described(await _registry(request).create(language, Path(cwd) if cwd else home)))


async def list_contexts(request: Request) -> Response:
    return JSONResponse([_described(context) for context in _registry(request).all()])


async def restart_context(request: Request) -> Response:
    await _registry(request).restart(request.path_params["context_id"])
    return JSONResponse(None)


async def remove_context(request: Request) -> Response:
    await _registry(request).remove(request.path_params["context_id"])
    return JSONResponse(None)


async def answer_error(_: Request, error: Exception) -> Response:
    status = next((status for kind, status in _STATUS_OF_ERROR.items() if isinstance(error, kind)), 500)
    return PlainTextResponse(str(error), status_code=status)


def _registry(request: Request) -> ContextRegistry:
    registry: ContextRegistry = request.app.state.registry
    return registry


def _described(context: Context) -> dict[str, str]:
    return {"id": context.id, "language": context.language.name, "cwd": str(context.cwd)}


async def _object(request: Request) -> dict[str, Any]:
    try:
        body = json.loads(await request.body())
    except ValueError as error:
        raise InvalidRequest(f"The body is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise InvalidRequest("The body is not a JSON object")
    return body


def _text(body: dict[str, Any], name: str) -> str | None:
    """Return a field that may be absent or null."""
    value = body.get(name)
    if value is not None and not isinstance(value, str):
        raise InvalidRequest(f"{name} must be a string")
    return value


def _variables(body: dict[str, Any]) -> dict[str, str]:
    value = body.get("env_vars") or {}
    if not isinstance(value, dict) or not all(isinstance(each, str) for each in value.values()):
        raise InvalidRequest("env_vars must be an object of strings")
    return value
