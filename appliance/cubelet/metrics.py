"""What Cubelet counts, under the names dashboards use."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram

# Seconds: from a pool claim under KVM (3 ms) to a cold clone on a loaded TCG node.
_BUCKETS = (0.003, 0.005, 0.01, 0.02, 0.04, 0.06, 0.1, 0.2, 0.4, 0.8, 1.5, 3, 6, 12, 30)


class CubeletMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.created = Histogram(
            "cube_sandbox_create_seconds",
            "Time from CubeMaster's request to the guest's acknowledgement",
            ["origin"],
            buckets=_BUCKETS,
            registry=registry,
        )
        self.failed = Counter(
            "cube_sandbox_create_failures", "Creates that left nothing behind", ["error"], registry=registry
        )
        self.ended = Counter("cube_sandbox_ended", "Sandboxes that ended, by reason", ["reason"], registry=registry)
