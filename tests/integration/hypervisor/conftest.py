from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from appliance.hypervisor.base import Snapshot
from tests.support.hypervisors import QemuHarness, make_template


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    """A snapshot of the tiny guest, shared by all tests."""

    async def make() -> Snapshot:
        harness = QemuHarness(tmp_path_factory.mktemp("template"))
        try:
            return await make_template(harness)
        finally:
            await harness.close()

    return asyncio.run(make())


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[QemuHarness]:
    harness = QemuHarness(tmp_path)
    try:
        yield harness
    finally:
        await harness.close()
