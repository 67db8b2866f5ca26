"""Composition root of CubeAPI: E2B's public REST interface over CubeMaster. It keeps no state of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

from appliance import __version__
from appliance.clients.master import MasterClient
from appliance.common.clock import Clock, SystemClock
from appliance.common.http import InternalClient, install_error_handlers
from appliance.cubeapi.auth import Authenticator
from appliance.cubeapi.content_errors import body_of
from appliance.cubeapi.failures import FailureLimit
from appliance.cubeapi.openapi import describe
from appliance.cubeapi.routes import (
    access_tokens,
    admin,
    api_keys,
    nodes,
    sandbox_logs,
    sandboxes,
    secrets,
    teams,
    templates,
    volume_content,
    volumes,
    workload_tokens,
)
from appliance.cubeapi.settings import CubeApiSettings
from appliance.domain import errors


def public_code(error: errors.CubeError) -> str | None:
    """Return the `error_code` that SDKs know for an error, or None: our class names stay inside."""
    if isinstance(error, errors.NoCapacity):
        return "sandbox_capacity_unavailable"
    if isinstance(error, errors.DeadlineExceeded):
        return "sandbox_placement_timeout"
    if isinstance(error, errors.GuestUnresponsive):
        return "sandbox_snapshot_guest_agent_unresponsive"
    if isinstance(error, errors.NodeFailure):
        return "sandbox_create_failed"
    return None


def create_app(settings: CubeApiSettings, *, admin_token: str | None = None, clock: Clock | None = None) -> FastAPI:
    """Return the application; its connections to CubeMaster open with the first request."""
    clock = clock or SystemClock()
    http = InternalClient(settings.master, service="cube-master")
    master = MasterClient(http)
    authenticate = Authenticator(
        master,
        clock=clock,
        ttl=timedelta(seconds=settings.key_cache_s),
        admin_token=admin_token,
        failures=FailureLimit(burst=settings.auth_failures.burst, per_s=settings.auth_failures.per_s, clock=clock),
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with http:
            yield
            await authenticate.close()

    app = FastAPI(
        title="CubeAPI",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    install_error_handlers(app, code_of=public_code, body_of=body_of)
    describe(app)
    app.add_middleware(
        CORSMiddleware,
        # Keys travel in a header, never in a cookie: any origin may ask, none is trusted for it.
        allow_origins=["*"],
        allow_methods=["*"],
        allow_headers=["*"],
        expose_headers=["X-Next-Token", "X-Total-Running", "Retry-After", "Should-Retry"],
    )

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Whether this process answers; CubeMaster has a health of its own."""
        return {"status": "ok", "version": __version__}

    app.include_router(sandboxes.router(master, authenticate, settings))
    app.include_router(sandbox_logs.router(master, authenticate))
    app.include_router(templates.router(master, authenticate, settings))
    app.include_router(api_keys.router(master, authenticate, clock))
    app.include_router(teams.router(master, authenticate))
    app.include_router(secrets.router(master, authenticate))
    app.include_router(volume_content.router(master))
    app.include_router(volumes.router(master, authenticate))
    app.include_router(workload_tokens.router(master))
    app.include_router(access_tokens.router(authenticate))
    app.include_router(nodes.router(master, authenticate))
    app.include_router(admin.router(master, authenticate, clock))
    return app
