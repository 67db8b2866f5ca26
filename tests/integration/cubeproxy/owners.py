"""Services of several sandboxes, each at an address of its own, that say whose they are."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

from aiohttp import web


@asynccontextmanager
async def owners(addresses: Mapping[str, str], port: int) -> AsyncIterator[None]:
    """Answer every request at `addresses` with `owner=<sandbox>`."""

    def service(sandbox: str) -> web.Server:
        async def answer(_: web.BaseRequest) -> web.Response:
            return web.Response(text=f"owner={sandbox}")

        return web.Server(answer)

    async with AsyncExitStack() as stack:
        for sandbox, address in addresses.items():
            runner = web.ServerRunner(service(sandbox))
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            await web.TCPSite(runner, address, port).start()
        yield
