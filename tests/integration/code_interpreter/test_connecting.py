"""What is published before the server has subscribed is lost: no cell may run then."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from code_interpreter import jupyter
from code_interpreter.context import Context
from code_interpreter.environment import SandboxVariables
from code_interpreter.errors import JupyterUnavailable
from code_interpreter.events import EndOfExecution, Event, ExecutionFailed, KeepAlive, NumberOfExecutions, Output
from code_interpreter.jupyter import JupyterServer
from code_interpreter.languages import Language


class Kernels:
    """A Jupyter server whose kernel answers at once, and whose connections hear what it publishes only later."""

    def __init__(self) -> None:
        self.deaf_to = 0  # requests of each new connection whose published messages are lost
        self.deaths = 0  # connections that are told that the kernel died

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/api/kernels", self._start)
        app.router.add_delete("/api/kernels/one", self._delete)
        app.router.add_get("/api/kernels/one/channels", self._channels)
        return app

    async def _start(self, _: web.Request) -> web.Response:
        return web.json_response({"id": "one"})

    async def _delete(self, _: web.Request) -> web.Response:
        return web.Response(status=204)

    async def _channels(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        if self.deaths:
            self.deaths -= 1
            await socket.send_json(_DEATH)
        deaf_to = self.deaf_to
        async for frame in socket:
            for answer in _answers(json.loads(frame.data)):
                if answer["channel"] != "iopub" or not deaf_to or answer is _DEATH:
                    await socket.send_json(answer)
            deaf_to = max(0, deaf_to - 1)
        return socket


def _answers(request: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    kind = request["header"]["msg_type"]
    if request["content"].get("code") == "die":
        yield _DEATH
        return
    yield _message("status", request, execution_state="busy")
    if kind == "execute_request":
        yield _message("execute_input", request, code=request["content"]["code"], execution_count=1)
        yield _message("stream", request, name="stdout", text="heard")
    yield _message(kind.replace("_request", "_reply"), request, status="ok")
    yield _message("status", request, execution_state="idle")


def _message(kind: str, request: Mapping[str, Any] | None, **content: Any) -> dict[str, Any]:
    return {
        "channel": "shell" if kind.endswith("_reply") else "iopub",
        "msg_type": kind,
        "header": {"date": "2026-01-01T00:00:00Z"},
        "parent_header": {"msg_id": request["header"]["msg_id"]} if request else {},
        "content": content,
    }


# The server tells it itself: the kernel can no more.
_DEATH = _message("status", None, execution_state="restarting")


@pytest.fixture
def kernels() -> Kernels:
    return Kernels()


@pytest.fixture
async def server(kernels: Kernels, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[JupyterServer]:
    monkeypatch.setattr(jupyter, "_ASK_AGAIN_S", 0.01)
    async with TestServer(kernels.app()) as listening, aiohttp.ClientSession() as session:
        yield JupyterServer(session, str(listening.make_url("")))


@pytest.fixture
async def context(server: JupyterServer) -> AsyncIterator[Context]:
    context = await Context.start(server, Language("any", "any"), Path("/"), {})
    yield context
    await context.close()


async def run(context: Context, code: str = "1") -> list[Event]:
    events: list[Event] = []

    async def emit(event: Event) -> None:
        events.append(event)

    await context.execute(code, sandbox=SandboxVariables(), variables={}, emit=emit)
    return [event for event in events if not isinstance(event, KeepAlive)]


_WHOLE = [NumberOfExecutions(1), Output("stdout", "heard", "2026-01-01T00:00:00Z"), EndOfExecution()]


async def test_the_first_cell_waits_until_it_is_heard(kernels: Kernels, server: JupyterServer) -> None:
    kernels.deaf_to = 5
    context = await Context.start(server, Language("any", "any"), Path("/"), {})
    assert await run(context) == _WHOLE
    await context.close()


async def test_a_cell_in_a_kernel_that_replaces_a_dead_one_waits_until_it_is_heard(
    kernels: Kernels, context: Context
) -> None:
    kernels.deaf_to = 5
    failure = (await run(context, "die"))[0]
    assert isinstance(failure, ExecutionFailed)
    assert failure.name == "ContextRestarting"
    assert await run(context) == _WHOLE


async def test_a_kernel_may_die_again_while_it_is_connected_to(kernels: Kernels, context: Context) -> None:
    kernels.deaths = 2
    await run(context, "die")
    assert await run(context) == _WHOLE
    assert kernels.deaths == 0


async def test_a_kernel_that_is_never_heard_is_given_up(
    kernels: Kernels, server: JupyterServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jupyter, "_REQUEST_DEADLINE_S", 0.5)
    kernels.deaf_to = 1_000_000
    with pytest.raises(JupyterUnavailable, match="does not answer"):
        async with asyncio.timeout(30):
            await server.connect("one")
