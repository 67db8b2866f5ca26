"""Composition root of the egress proxy, and its HTTP side: health and metrics.

GET /health   204
GET /metrics  200 Prometheus text
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from fastapi import FastAPI, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from appliance import __version__
from appliance.common.clock import SystemClock
from appliance.common.supervisor import Supervisor
from appliance.cubevs import netlink
from appliance.cubevs.egress.certificates import Certificates
from appliance.cubevs.egress.dial import Dialler
from appliance.cubevs.egress.intercept import Interceptor, upstream_trust
from appliance.cubevs.egress.metrics import EgressMetrics
from appliance.cubevs.egress.originals import DivertedFlows
from appliance.cubevs.egress.proxy import EgressProxy, Limits
from appliance.cubevs.egress.requests import Http, Tcp, Tls
from appliance.cubevs.egress.resolver import DnsResolver
from appliance.cubevs.egress.rule_files import RuleReader
from appliance.cubevs.egress.settings import EgressSettings


def build_proxy(settings: EgressSettings, registry: CollectorRegistry) -> EgressProxy:
    return EgressProxy(
        protocols=(Http(), Tls(allow_ech=settings.allow_ech), Tcp()),
        originals=DivertedFlows(settings.bpffs),
        rules=RuleReader(settings.rules),
        dialler=Dialler(
            resolver=DnsResolver(settings.dns_address),
            node_addresses=netlink.local_addresses,
            permitted=settings.permitted_networks,
            connect_s=settings.connect_s,
            tunnel_s=settings.tunnel_s,
        ),
        interceptor=Interceptor(
            certificates=Certificates(SystemClock()),
            trust=upstream_trust(settings.trusted_certificates),
            handshake_s=settings.connect_s,
        ),
        limits=Limits(
            connections=settings.connections,
            connections_per_sandbox=settings.connections_per_sandbox,
            request_s=settings.request_s,
            idle_s=settings.idle_s,
        ),
        metrics=EgressMetrics(registry),
    )


def create_app(settings: EgressSettings) -> FastAPI:
    """Return the application; the proxy listens while it is served. Raises OSError for certificates that are none."""
    registry = CollectorRegistry()
    proxy = build_proxy(settings, registry)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with Supervisor() as supervisor:
            await proxy.start(settings.address)
            try:
                supervisor.every(timedelta(seconds=settings.recheck_s), proxy.recheck, name="recheck")
                yield
            finally:
                await proxy.close()

    app = FastAPI(title="CubeVS egress", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)

    @app.get("/health", status_code=204)
    async def health() -> Response:
        return Response(status_code=204)

    @app.get("/metrics")
    async def expose() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return app
