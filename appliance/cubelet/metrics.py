"""What Cubelet counts, under the names dashboards use."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from appliance.cubevs.base import DropReason
from appliance.domain.errors import CubeError

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
        self.kept = Histogram(
            "cube_sandbox_keep_seconds",
            "Time of pauses, resumes, snapshots and rollbacks",
            ["operation", "kind"],
            buckets=_BUCKETS,
            registry=registry,
        )
        self.not_kept = Counter(
            "cube_sandbox_keep_failures",
            "Pauses, resumes, snapshots and rollbacks that failed, and left the sandbox as it was",
            ["operation", "error"],
            registry=registry,
        )
        self.build_steps = Counter(
            "cube_build_steps",
            "Steps of template builds, run or taken from an earlier build",
            ["how"],
            registry=registry,
        )
        self.kept_steps = Gauge("cube_kept_steps", "Disks kept for builds that go on from them", registry=registry)
        self.kept_step_bytes = Gauge("cube_kept_step_bytes", "Bytes of those disks", registry=registry)
        self.keepers = Gauge(
            "cube_volume_keepers", "Machines that serve the content of volumes without a sandbox", registry=registry
        )
        self.drops = _Drops()
        registry.register(self.drops)

    @contextmanager
    def keeping(self, operation: str, *, memory: bool) -> Iterator[None]:
        """Measure a pause, resume, snapshot or rollback."""
        begun = time.monotonic()
        try:
            yield
        except CubeError as error:
            self.not_kept.labels(operation, type(error).__name__).inc()
            raise
        kind = "memory" if memory else "filesystem"
        self.kept.labels(operation, kind).observe(time.monotonic() - begun)


class _Drops(Collector):
    """Packets that CubeVS dropped: counted in the kernel, copied here when somebody asks."""

    def __init__(self) -> None:
        self._counts: Mapping[DropReason, int] = {}

    def update(self, counts: Mapping[DropReason, int]) -> None:
        self._counts = counts

    def collect(self) -> Iterator[CounterMetricFamily]:
        family = CounterMetricFamily("cube_vs_dropped_packets", "Packets dropped on sandbox taps", labels=["reason"])
        for reason, count in self._counts.items():
            family.add_metric([reason.name.lower()], count)
        yield family
