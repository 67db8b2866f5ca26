"""Client of the Jupyter server: kernels over REST, their messages over a WebSocket each."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Collection
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp

from code_interpreter.errors import JupyterUnavailable, KernelStartFailed, LanguageNotInstalled
from code_interpreter.messages import (
    Message,
    kernel_info_request,
    kernel_was_lost,
    message_id,
    parent_id,
    tells_idle,
)

log = logging.getLogger(__name__)

# Generous, since a kernel starts under emulation too: a deadline only has to end a hang.
_READY_DEADLINE_S = 120.0
_REQUEST_DEADLINE_S = 90.0
_READY_POLL_S = 0.1
_ASK_AGAIN_S = 0.5


class KernelConnection:
    """The WebSocket to one kernel."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket

    async def send(self, message: Message) -> None:
        try:
            await self._socket.send_str(json.dumps(message))
        except (ConnectionError, aiohttp.ClientError) as error:
            raise JupyterUnavailable("The connection to the kernel was lost") from error

    async def messages(self) -> AsyncGenerator[dict[str, Any], None]:
        """Yield messages until the connection ends, from whichever side."""
        async for frame in self._socket:
            if frame.type is aiohttp.WSMsgType.TEXT:
                yield json.loads(frame.data)

    async def is_heard(self) -> bool:
        """Return true once what the kernel publishes arrives here, or false when the kernel dies before.

        The kernel publishes to whoever has subscribed, and the server subscribes while it lets us in already: the
        output of a cell that came too early would be lost. It waits for that itself, but not with a kernel that it
        takes to be busy, as it does with one that has just taken the place of a dead one.

        Messages until then are dropped. `JupyterUnavailable` if the connection ends first.
        """
        asked: set[str | None] = set()
        while True:
            # A busy kernel answers on the control channel, if it can; one that knows no such request there does on
            # the other.
            for request in (kernel_info_request("shell"), kernel_info_request("control")):
                asked.add(message_id(request))
                await self.send(request)
            with suppress(TimeoutError):
                async with asyncio.timeout(_ASK_AGAIN_S):
                    return await self._hears_idle_after(asked)

    async def _hears_idle_after(self, requests: Collection[str | None]) -> bool:
        async with aclosing(self.messages()) as messages:
            async for message in messages:
                if kernel_was_lost(message):
                    return False
                if tells_idle(message) and parent_id(message) in requests:
                    return True
        raise JupyterUnavailable("The connection to the kernel was lost")

    async def close(self) -> None:
        await self._socket.close()


class JupyterServer:
    """The Jupyter server of the sandbox. Failures to reach it are `JupyterUnavailable`."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url.rstrip("/")

    async def wait_until_ready(self) -> None:
        """Return once the server answers; both are started at the same moment."""
        async with asyncio.timeout(_READY_DEADLINE_S):
            while True:
                try:
                    async with self._request("GET", "/api/status"):
                        return
                except JupyterUnavailable:
                    await asyncio.sleep(_READY_POLL_S)

    async def kernel_ids(self) -> list[str]:
        async with self._request("GET", "/api/kernels") as answer:
            return [kernel["id"] for kernel in await answer.json()]

    async def start_kernel(self, name: str, cwd: Path) -> str:
        """Start a kernel in `cwd`, an existing directory, and return its id."""
        # The server's root is /, so that a kernel may start anywhere.
        body = {"name": name, "path": str(cwd).lstrip("/")}
        try:
            async with self._request("POST", "/api/kernels", body) as answer:
                return str((await answer.json())["id"])
        except JupyterUnavailable as error:
            if name not in (installed := await self._installed_kernels()):
                raise LanguageNotInstalled(name, installed) from error
            raise KernelStartFailed(name, str(error)) from error

    async def _installed_kernels(self) -> Collection[str]:
        async with self._request("GET", "/api/kernelspecs") as answer:
            return set((await answer.json())["kernelspecs"])

    async def restart_kernel(self, kernel_id: str) -> None:
        async with self._request("POST", f"/api/kernels/{kernel_id}/restart", {}):
            pass

    async def interrupt_kernel(self, kernel_id: str) -> None:
        async with self._request("POST", f"/api/kernels/{kernel_id}/interrupt", {}):
            pass

    async def delete_kernel(self, kernel_id: str) -> None:
        """Stop the kernel. An absent kernel is success."""
        async with self._request("DELETE", f"/api/kernels/{kernel_id}", absent_ok=True):
            pass

    async def connect(self, kernel_id: str) -> KernelConnection:
        """Return a connection on which the kernel answers, and on which its output is heard."""
        try:
            async with asyncio.timeout(_REQUEST_DEADLINE_S):
                while (connection := await self._try_to_connect(kernel_id)) is None:
                    log.warning("kernel %s died while it was connected to", kernel_id)
                return connection
        except TimeoutError as error:
            raise JupyterUnavailable(f"Kernel {kernel_id} does not answer") from error
        except (aiohttp.ClientError, OSError) as error:
            raise JupyterUnavailable(f"Kernel {kernel_id} cannot be reached: {error}") from error

    async def _try_to_connect(self, kernel_id: str) -> KernelConnection | None:
        async with AsyncExitStack() as undo:
            socket = await self._session.ws_connect(
                f"{self._url}/api/kernels/{kernel_id}/channels",
                max_msg_size=0,  # plots and tables have no limit here
                compress=0,
                heartbeat=None,
            )
            undo.push_async_callback(socket.close)
            connection = KernelConnection(socket)
            if not await connection.is_heard():
                return None
            undo.pop_all()
            return connection

    @asynccontextmanager
    async def _request(
        self, method: str, path: str, body: dict[str, Any] | None = None, *, absent_ok: bool = False
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        deadline = aiohttp.ClientTimeout(total=_REQUEST_DEADLINE_S)
        try:
            async with self._session.request(method, self._url + path, json=body, timeout=deadline) as answer:
                if answer.status >= 400 and not (absent_ok and answer.status == 404):
                    raise JupyterUnavailable(f"{method} {path} answered {answer.status}: {await _reason(answer)}")
                yield answer
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise JupyterUnavailable(f"{method} {path} failed: {error}") from error


async def _reason(answer: aiohttp.ClientResponse) -> str:
    """Return what the server says of its refusal: `message` of its JSON, else the bare body."""
    text = await answer.text()
    try:
        return str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        return text
