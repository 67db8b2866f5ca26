"""The egress proxy in the node's namespace, with what it stands between."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry

from appliance.common.clock import SystemClock
from appliance.cubevs import netlink
from appliance.cubevs.egress.certificates import Certificates
from appliance.cubevs.egress.dial import Dialler
from appliance.cubevs.egress.intercept import Interceptor, upstream_trust
from appliance.cubevs.egress.metrics import EgressMetrics
from appliance.cubevs.egress.originals import DivertedFlows
from appliance.cubevs.egress.proxy import EgressProxy, Limits
from appliance.cubevs.egress.refusals import Reason
from appliance.cubevs.egress.requests import Http, Tcp, Tls
from appliance.cubevs.egress.resolver import DnsResolver
from appliance.cubevs.egress.rule_files import RuleReader
from tests.integration.cubevs.egress_world import Answerer, World, echo, world
from tests.support.name_server import NameServer, name_server
from tests.support.sandbox_net import ELSEWHERE, OUTSIDE, Site

NODE: Final = IPv4Address("10.88.0.1")
EVERYTHING: Final = IPv4Network("0.0.0.0/0")
# The world of the tests is documentation's, which is not public; what stands for private addresses is not in here.
PERMITTED: Final = (IPv4Network("203.0.113.0/24"), IPv4Network("198.51.100.0/24"))
LIMITS: Final = Limits(connections=100, connections_per_sandbox=50, request_s=10, idle_s=60)


@dataclass
class Egress:
    """The proxy, with what it stands between."""

    proxy: EgressProxy
    registry: CollectorRegistry
    certificates: Certificates
    names: NameServer
    world: World

    def refused(self, protocol: str, reason: Reason) -> float:
        labels = {"protocol": protocol, "reason": reason}
        return self.registry.get_sample_value("cube_egress_refused_total", labels) or 0

    def injected(self, protocol: str) -> float:
        return self.registry.get_sample_value("cube_egress_injected_total", {"protocol": protocol}) or 0

    def upstreams(self, by: str, way: str) -> float:
        return self.registry.get_sample_value("cube_egress_upstreams_total", {"by": by, "way": way}) or 0

    def open_connections(self) -> float:
        return self.registry.get_sample_value("cube_egress_open_connections") or 0


@asynccontextmanager
async def running_egress(
    node: Site, directory: Path, *, limits: Limits = LIMITS, by_tls: Answerer = echo, tunnel_s: float = 15
) -> AsyncIterator[Egress]:
    """Run the proxy until the block ends, when nothing may have failed unseen. It believes the world's certificate."""
    registry = CollectorRegistry()
    certificates = Certificates(SystemClock())
    failures: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    async with name_server(NODE, 53) as names, world(node, directory, by_tls=by_tls) as outside:
        names.records.update({name: (str(OUTSIDE),) for name in ("example.com", "www.example.com", "a.b.example.com")})
        names.records["other.org"] = (str(ELSEWHERE),)
        proxy = EgressProxy(
            protocols=(Http(), Tls(allow_ech=False), Tcp()),
            originals=DivertedFlows(node.bpffs),
            rules=RuleReader(node.egress_rules),
            dialler=Dialler(
                resolver=DnsResolver(NODE),
                node_addresses=netlink.local_addresses,
                permitted=PERMITTED,
                connect_s=5,
                tunnel_s=tunnel_s,
            ),
            interceptor=Interceptor(
                certificates=certificates, trust=upstream_trust(outside.certificate), handshake_s=5
            ),
            limits=limits,
            metrics=EgressMetrics(registry),
        )
        await proxy.start(NODE)
        try:
            yield Egress(proxy, registry, certificates, names, outside)
        finally:
            await proxy.close()
    gc.collect()  # what a task that nobody asks has raised is reported when it goes
    assert failures == []
