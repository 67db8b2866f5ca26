"""One Cubelet with real guests for all tests here, and the template that they share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from appliance.clients.node import NodeClient
from tests.support.real_node import RealNode, real_node


@pytest.fixture(scope="session")
def node() -> Iterator[RealNode]:
    async def build() -> None:
        async with made.calls() as client:
            await made.build(client)

    with real_node("real-node") as made:
        with made.namespace.entered():
            asyncio.run(build())
        yield made


@pytest.fixture
def inside(node: RealNode) -> Iterator[None]:
    """Be where the guests can be reached."""
    with node.namespace.entered():
        yield


@pytest.fixture
async def cubelet(node: RealNode, inside: None) -> AsyncIterator[NodeClient]:
    async with node.calls() as client:
        yield client
        for sandbox in await client.list_sandboxes():
            await client.delete_sandbox(sandbox.sandbox_id)
