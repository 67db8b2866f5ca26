"""What CubeMaster counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram

_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)


class Metrics:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.creates = Counter(
            "cube_master_creates", "Sandbox creates, by outcome", ["outcome"], registry=self.registry
        )
        self.create_seconds = Histogram(
            "cube_master_create_seconds",
            "Time of a sandbox create, by stage: intent, node, record",
            ["stage"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.ended = Counter(
            "cube_master_ended_sandboxes", "Sandboxes that ended, by reason", ["reason"], registry=self.registry
        )
        self.heartbeats = Counter(
            "cube_master_heartbeats", "Heartbeats taken, by node", ["node"], registry=self.registry
        )
        self.builds = Counter(
            "cube_master_builds", "Template builds that ended, by status", ["status"], registry=self.registry
        )
