"""What the egress proxy counts."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge


class EgressMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.accepted = Counter(
            "cube_egress_connections", "Connections of guests, by protocol", ["protocol"], registry=registry
        )
        self.refused = Counter(
            "cube_egress_refused", "Connections that were refused or cut", ["protocol", "reason"], registry=registry
        )
        self.moved = Counter("cube_egress_bytes", "Bytes passed on", ["direction"], registry=registry)
        self.upstreams = Counter(
            "cube_egress_upstreams",
            "Connections made for guests: by their name or address, from the node or by the tunnel of the sandbox",
            ["by", "way"],
            registry=registry,
        )
        self.open = Gauge("cube_egress_open_connections", "Connections that are open", registry=registry)
        self.injected = Counter(
            "cube_egress_injected", "Requests that a rule's headers were added to", ["protocol"], registry=registry
        )
