"""CubeMaster as a process of its own, which a test kills at a failpoint and starts again."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from appliance.cubemaster.settings import CubeMasterSettings
from appliance.domain.errors import Unavailable
from tests.support.waiting import eventually

ROOT = Path(__file__).resolve().parents[2]
_START_LIMIT_S = 60


@dataclass
class MasterProcess:
    base: Path
    settings: CubeMasterSettings
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        assert self.settings.failpoints is not None
        self.failpoint = self.settings.failpoints
        (self.base / "envd-seed").write_text("seed")
        (self.base / "secrets-key").write_text("6" * 64)
        (self.base / "master.toml").write_text(_toml(self.settings))

    def start(self) -> None:
        """Start it, unless it runs, and return once it answers."""
        if self._process is not None:
            return
        with (self.base / "log").open("ab") as log:
            self._process = subprocess.Popen(
                (
                    *(str(Path(sys.executable).parent / "cube-master"), "--config", str(self.base / "master.toml")),
                    *("--credentials", str(self.base)),
                ),
                stdout=log,
                stderr=log,
                cwd=ROOT,
            )
        health = ("curl", "-sf", "--unix-socket", str(self.settings.socket), "http://localhost/health")
        give_up = time.monotonic() + _START_LIMIT_S
        while subprocess.run(health, capture_output=True, timeout=30, check=False).returncode != 0:
            if self._process.poll() is not None or time.monotonic() > give_up:
                raise RuntimeError(f"CubeMaster did not start:\n{self.said()}")
            time.sleep(0.02)  # tests start it from threads and fixtures that no event loop waits for

    def stop(self) -> None:
        self.failpoint.unlink(missing_ok=True)
        if self._process is not None:
            self._process.terminate()
            self._process.wait(timeout=60)
            self._process = None

    def said(self) -> str:
        return (self.base / "log").read_text()[-6000:]

    def arm(self, point: str) -> None:
        self.failpoint.write_text(f"{point} kill")

    async def dies_at(self, point: str, call: Awaitable[object]) -> None:
        """Make a call in the middle of which CubeMaster dies."""
        self.arm(point)
        with pytest.raises(Unavailable):
            await call
        await self.has_died()

    async def has_died(self) -> None:
        """Return once it has killed itself."""
        process = self._process
        assert process is not None
        await eventually(lambda: process.poll() is not None)
        assert process.returncode == -9, self.said()
        self._process = None

    async def start_again(self) -> None:
        await asyncio.to_thread(self.start)


@contextmanager
def master_process(base: Path, settings: CubeMasterSettings) -> Iterator[MasterProcess]:
    process = MasterProcess(base, settings)
    try:
        process.start()
        yield process
    finally:
        process.stop()


def _toml(settings: CubeMasterSettings) -> str:
    """Return what differs from the defaults, as CubeMaster's settings file has it."""
    tables = settings.model_dump(mode="json", exclude_defaults=True)
    own = {name: value for name, value in tables.items() if not isinstance(value, dict)}
    lines = [f"{name} = {_value(value)}" for name, value in own.items()]
    for table, values in tables.items():
        if isinstance(values, dict):
            lines += [f"[{table}]", *(f"{name} = {_value(value)}" for name, value in values.items())]
    return "\n".join(lines) + "\n"


def _value(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case int() | float():
            return str(value)
    return f'"{value}"'
