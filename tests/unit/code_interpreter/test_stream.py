import asyncio
from typing import Any

import pytest

from code_interpreter.events import EndOfExecution, KeepAlive
from code_interpreter.execution import Emit
from code_interpreter.stream import EventStream


class Connection:
    """The server's side of one request, as an ASGI application sees it."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.client_left = asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        await self.client_left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.sent.append(message)


async def test_events_are_sent_as_they_come() -> None:
    async def produce(emit: Emit) -> None:
        await emit(KeepAlive())
        await emit(EndOfExecution())

    connection = Connection()
    async with asyncio.timeout(10):
        await EventStream(produce)({"type": "http"}, connection.receive, connection.send)
    start, *bodies = connection.sent
    assert start["status"] == 200
    assert [body["body"] for body in bodies] == [
        b'{"type":"keepalive"}\n',
        b'{"type":"end_of_execution"}\n',
        b"",
    ]
    assert [body["more_body"] for body in bodies] == [True, True, False]


async def test_production_is_cancelled_when_the_client_leaves() -> None:
    connection = Connection()
    cleaned_up = False

    async def produce(emit: Emit) -> None:
        nonlocal cleaned_up
        connection.client_left.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)  # an interrupt is a request of its own
            cleaned_up = True

    async with asyncio.timeout(10):
        await EventStream(produce)({"type": "http"}, connection.receive, connection.send)
    assert cleaned_up


async def test_a_failing_producer_shows() -> None:
    async def produce(emit: Emit) -> None:
        raise LookupError

    connection = Connection()
    with pytest.raises(ExceptionGroup) as caught:
        await EventStream(produce)({"type": "http"}, connection.receive, connection.send)
    assert caught.group_contains(LookupError)
