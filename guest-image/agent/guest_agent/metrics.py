"""GET /metrics: what the machine uses, from /proc and the root file system."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp

from guest_agent.logs.ring import LogRing

_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class CpuTimes:
    """Clock ticks since boot, of all processors together."""

    total: int
    idle: int


def parse_cpu_times(stat: str) -> CpuTimes:
    """Parse the first line of /proc/stat. Waiting for a disk counts as idle; guest time is within user time."""
    fields = [int(field) for field in stat.partition("\n")[0].split()[1:9]]
    return CpuTimes(total=sum(fields), idle=fields[3] + fields[4])


def used_percent(before: CpuTimes, after: CpuTimes) -> float:
    """Return the share of the time between that was not idle, 0 to 100 over all processors."""
    total = after.total - before.total
    if total <= 0:
        return 0.0
    return round(100 * (1 - (after.idle - before.idle) / total), 2)


def parse_meminfo(text: str) -> dict[str, int]:
    """Return the rows of /proc/meminfo in bytes."""
    rows = (line.split() for line in text.splitlines())
    return {row[0].rstrip(":"): int(row[1]) * 1024 for row in rows if len(row) == 3 and row[2] == "kB"}


class Metrics:
    """Measures processor use between one request and the next, the first since boot."""

    def __init__(self, logs: LogRing, proc: Path = Path("/proc"), disk: Path = Path("/")) -> None:
        self._logs = logs
        self._proc = proc
        self._disk = disk
        self._before = CpuTimes(0, 0)

    async def endpoint(self, _request: Request) -> ASGIApp:
        # Tells the node, which asks for this every few seconds, whether there is anything new to ask for in the log.
        return JSONResponse(self.sample(), headers={"X-Log-End": f"{self._logs.epoch}/{self._logs.next_number}"})

    def sample(self) -> dict[str, int | float]:
        after = parse_cpu_times((self._proc / "stat").read_text())
        memory = parse_meminfo((self._proc / "meminfo").read_text())
        disk = os.statvfs(self._disk)
        cpu = used_percent(self._before, after)
        self._before = after
        used = memory["MemTotal"] - memory["MemAvailable"]
        return {
            "ts": int(time.time()),
            "cpu_count": os.cpu_count() or 1,
            "cpu_used_pct": cpu,
            "mem_total": memory["MemTotal"],
            "mem_used": used,
            "mem_cache": memory["Cached"],
            "mem_total_mib": memory["MemTotal"] // _MIB,
            "mem_used_mib": used // _MIB,
            "disk_used": (disk.f_blocks - disk.f_bfree) * disk.f_frsize,
            "disk_total": disk.f_blocks * disk.f_frsize,
        }
