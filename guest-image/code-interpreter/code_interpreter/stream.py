"""The answer to `POST /execute`: events as they happen, for as long as the client stays."""

import asyncio
from collections.abc import Awaitable, Callable

from starlette.types import Receive, Scope, Send

from code_interpreter.events import Event, encode
from code_interpreter.execution import Emit


class EventStream:
    """An ASGI response that runs `produce` and cancels it when the client goes away."""

    def __init__(self, produce: Callable[[Emit], Awaitable[None]]) -> None:
        self._produce = produce

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with asyncio.TaskGroup() as tasks:
            sending = tasks.create_task(self._send_all(send))
            watching = tasks.create_task(_wait_for_disconnect(receive))
            watching.add_done_callback(lambda _: sending.cancel())
            sending.add_done_callback(lambda _: watching.cancel())

    async def _send_all(self, send: Send) -> None:
        headers = [(b"content-type", b"application/x-ndjson")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})

        async def emit(event: Event) -> None:
            await send({"type": "http.response.body", "body": encode(event), "more_body": True})

        await self._produce(emit)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
