"""What the machine below this node has and uses, for the operator: read from /proc with each heartbeat."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from appliance.contracts.node import HostDisk, HostReport

_KIB = 1024


class HostWatch:
    """Reads the machine; how busy its processors were is told between two readings."""

    def __init__(self, data_dir: Path, *, proc: Path = Path("/proc")) -> None:
        self._data_dir = data_dir
        self._proc = proc
        self._before: tuple[int, int] | None = None
        self._cpu = _cpu_names((proc / "cpuinfo").read_text())

    def read(self) -> HostReport:
        memory = _meminfo((self._proc / "meminfo").read_text())
        huge_total, huge_free = memory.get("HugePages_Total", 0), memory.get("HugePages_Free", 0)
        return HostReport(
            cpu_count=os.cpu_count() or 1,
            cpu_used_pct=self._cpu_used_pct(),
            memory_total_bytes=memory["MemTotal"] * _KIB,
            memory_used_bytes=(memory["MemTotal"] - memory["MemAvailable"]) * _KIB,
            huge_pages_total=huge_total,
            huge_pages_used=huge_total - huge_free,
            huge_pages_reserved=memory.get("HugePages_Rsvd", 0),
            huge_page_size_bytes=memory.get("Hugepagesize", 0) * _KIB,
            disk=self._disk(),
            cpu_family=self._cpu.get("cpu family", ""),
            cpu_model=self._cpu.get("model", ""),
            cpu_model_name=self._cpu.get("model name", ""),
            cpu_architecture=platform.machine(),
        )

    def _cpu_used_pct(self) -> float:
        """Return the share of all processors' time that was used since the last reading; 0 at the first."""
        # user nice system idle iowait irq softirq steal; guest time is in user already.
        fields = [int(word) for word in (self._proc / "stat").read_text().split("\n", 1)[0].split()[1:9]]
        total, idle = sum(fields), fields[3] + fields[4]
        before, self._before = self._before, (total, idle)
        if before is None or total <= before[0]:
            return 0.0
        return round(100 * (1 - (idle - before[1]) / (total - before[0])), 1)

    def _disk(self) -> HostDisk:
        """Return the file system of the data directory."""
        usage = os.statvfs(self._data_dir)
        device, mount_point, kind = _mount_of(
            self._data_dir.resolve(), (self._proc / "self" / "mounts").read_text(encoding="utf-8", errors="replace")
        )
        return HostDisk(
            mount_point=mount_point,
            device=device,
            filesystem_type=kind,
            used_bytes=(usage.f_blocks - usage.f_bfree) * usage.f_frsize,
            total_bytes=usage.f_blocks * usage.f_frsize,
        )


def _meminfo(text: str) -> dict[str, int]:
    """Return the figures of meminfo: KiB, or counts of pages."""
    lines = (line.partition(":") for line in text.splitlines())
    return {name: int(rest.split()[0]) for name, _, rest in lines if rest.split()}


def _cpu_names(text: str) -> dict[str, str]:
    """Return what cpuinfo says of the first processor."""
    first = text.split("\n\n", 1)[0]
    lines = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in lines}


def _mount_of(path: Path, mounts: str) -> tuple[str, str, str]:
    """Return device, mount point and type of the file system that holds a path."""
    best = ("", "/", "")
    for line in mounts.splitlines():
        device, point, kind, *_ = line.split(" ")
        # A later mount on the same point hides an earlier one.
        if path.is_relative_to(point) and len(point) >= len(best[1]):
            best = (device, point, kind)
    return best
