"""Cubelet's calls to the agent inside one guest (E2B's envd protocol, port 49983), over the guest's tap.

One `GuestClient` belongs to one VM: its connections are never reused for another owner of the same address.
Everything that comes back is written by an untrusted guest: sizes are capped and only the expected fields are read.
"""

from __future__ import annotations

import asyncio
import base64
import json
import struct
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from ipaddress import IPv4Address

import aiohttp
from yarl import URL

from appliance.clients.guest_logs import MAX_PAGE_BYTES, GuestLogPage, LogCursor, parse_log_end, parse_log_page
from appliance.clients.guest_reports import Usage, parse_environment, parse_usage
from appliance.domain.errors import GuestFailure, GuestRefused
from appliance.domain.network import AGENT_PORT

_MAX_ENVELOPE_BYTES = 1 << 20
_END_OF_STREAM = 0x02
_MAX_METRICS_BYTES = 4096
# A stopped guest's clock stands still, so its side of an idle connection never times out; neither must ours.
_KEEPALIVE_S = 7 * 24 * 3600


@dataclass(frozen=True, slots=True)
class Identity:
    """What makes a clone its own machine; pushed before anything else reaches it."""

    sandbox_id: str
    template_id: str
    hostname: str
    machine_id: str | None
    """32 hex digits. None: it keeps the one it has."""
    entropy: bytes = field(repr=False)
    """At least 64 bytes from the node's generator, credited to the guest's."""
    timestamp: datetime
    access_token: str | None = field(repr=False)
    env_vars: Mapping[str, str] = field(repr=False)
    default_user: str | None = None
    default_workdir: str | None = None
    inherits_env: bool = False
    """Whether variables that the guest has and `env_vars` does not stay: after a pause, or in a copy of a sandbox."""
    volume_paths: Sequence[str] = ()
    """Where the guest has the volume of each slot, from the first."""
    ca_bundle: str | None = None
    """PEM of what the guest is to trust besides what its image does."""


@dataclass(frozen=True, slots=True)
class ExecResult:
    exit_code: int
    stdout: str
    """At most `max_output_bytes`, cut at the end."""
    stderr: str


class GuestClient:
    """Calls one guest's agent. Every failure is a `GuestFailure` that says which call it was."""

    def __init__(self, address: IPv4Address, *, port: int = AGENT_PORT) -> None:
        self._address = address
        self._base = f"http://{address}:{port}"
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=4, keepalive_timeout=_KEEPALIVE_S),
            auto_decompress=False,
        )

    async def close(self) -> None:
        await self._session.close()

    async def wait_healthy(self, *, deadline: timedelta) -> None:
        """Return once the agent answers; used where a guest is still booting."""
        last = "no answer"
        try:
            async with asyncio.timeout(deadline.total_seconds()):
                while True:
                    try:
                        async with self._call("GET", "/health", deadline=timedelta(seconds=5)):
                            return
                    except GuestFailure as error:
                        last = error.message
                    # A booting guest drops or refuses connections; it has no way to tell us when it is ready.
                    await asyncio.sleep(0.05)
        except TimeoutError as error:
            raise GuestFailure(
                f"the guest agent did not answer within {deadline.total_seconds():g} s ({last}); "
                "the console log beside the build has the guest's messages"
            ) from error

    async def check_healthy(self, *, deadline: timedelta) -> None:
        """Return if the agent answers, once asked."""
        async with self._call("GET", "/health", deadline=deadline):
            return

    async def flush(self, *, deadline: timedelta) -> dict[str, str]:
        """Make the guest write its file systems to their disks, and return the environment its processes are given."""
        payload = bytearray()
        async with self._call("POST", "/flush", deadline=deadline) as response:
            while chunk := await response.content.read(_MAX_ENVELOPE_BYTES):
                payload += chunk
                if len(payload) > _MAX_ENVELOPE_BYTES:
                    raise GuestFailure("the guest agent's environment is too long")
        return parse_environment(bytes(payload))

    async def release_volumes(self, *, deadline: timedelta) -> None:
        """Make the guest write its volumes to their disks, and unmount them, since it is about to end."""
        async with self._call("POST", "/volumes/release", deadline=deadline):
            return

    async def init(self, identity: Identity, *, deadline: timedelta) -> str:
        """Give the guest its identity and return the agent's version. The guest acknowledges, or the call raises."""
        body: dict[str, object] = {
            "accessToken": identity.access_token,
            "envVars": dict(identity.env_vars),
            "timestamp": identity.timestamp.isoformat().replace("+00:00", "Z"),
            "defaultUser": identity.default_user,
            "defaultWorkdir": identity.default_workdir,
            "sandboxId": identity.sandbox_id,
            "templateId": identity.template_id,
            "hostname": identity.hostname,
            "machineId": identity.machine_id,
            "entropy": base64.b64encode(identity.entropy).decode(),
            "inheritEnv": identity.inherits_env,
            "volumeMounts": [{"slot": slot, "path": path} for slot, path in enumerate(identity.volume_paths)],
        }
        if identity.ca_bundle is not None:
            body["caBundle"] = identity.ca_bundle
        async with self._call("POST", "/init", deadline=deadline, data=json.dumps(body).encode()) as response:
            return response.headers.get("X-Envd-Version", "")

    async def trust(self, ca_bundle: str, *, deadline: timedelta) -> None:
        """Make the guest trust certificates in PEM besides what its image does. All else stays as `init` said."""
        async with self._call("POST", "/trust", deadline=deadline, data=json.dumps({"caBundle": ca_bundle}).encode()):
            return

    async def run(
        self,
        argv: tuple[str, ...],
        *,
        deadline: timedelta,
        access_token: str | None = None,
        user: str | None = None,
        envs: Mapping[str, str] | None = None,
        cwd: str | None = None,
        max_output_bytes: int = 64 * 1024,
    ) -> ExecResult:
        """Run a program to its end. The guest kills it at the deadline."""
        stdout, stderr = bytearray(), bytearray()
        async for event in self._start(
            argv, deadline=deadline, access_token=access_token, user=user, envs=envs, cwd=cwd
        ):
            data = event.get("data")
            if isinstance(data, dict):
                for name, sink in (("stdout", stdout), ("stderr", stderr)):
                    if isinstance(data.get(name), str) and len(sink) < max_output_bytes:
                        sink.extend(_decoded(data[name]))
            end = event.get("end")
            if isinstance(end, dict):
                return ExecResult(
                    exit_code=_exit_code(end),
                    stdout=stdout[:max_output_bytes].decode(errors="replace"),
                    stderr=stderr[:max_output_bytes].decode(errors="replace"),
                )
        raise GuestFailure(f"the guest ended the stream of {argv[0]} without an exit code")

    async def follow(
        self,
        argv: tuple[str, ...],
        on_output: Callable[[str, bytes], None],
        *,
        deadline: timedelta | None,
        user: str | None = None,
        envs: Mapping[str, str] | None = None,
        cwd: str | None = None,
        on_start: Callable[[], None] = lambda: None,
    ) -> int:
        """Run a program to its end, hand over what it writes as (`stdout` or `stderr`, bytes), return its exit code.

        The guest kills it at the deadline. Where this is cancelled before, the program goes on.
        """
        stream = self._start(argv, deadline=deadline, user=user, envs=envs, cwd=cwd)
        try:
            async for event in stream:
                if "start" in event:
                    on_start()
                data = event.get("data")
                if isinstance(data, dict):
                    for name in ("stdout", "stderr"):
                        if isinstance(data.get(name), str):
                            on_output(name, _decoded(data[name]))
                end = event.get("end")
                if isinstance(end, dict):
                    return _exit_code(end)
        finally:
            await stream.aclose()
        raise GuestFailure(f"the guest ended the stream of {argv[0]} without an exit code")

    async def start(
        self,
        argv: tuple[str, ...],
        *,
        deadline: timedelta,
        access_token: str | None = None,
        user: str | None = None,
        envs: Mapping[str, str] | None = None,
        cwd: str | None = None,
    ) -> int:
        """Start a program that goes on without us, and return its pid in the guest."""
        # No Connect timeout is sent for it: the guest would kill the program when it elapses.
        stream = self._start(argv, deadline=None, access_token=access_token, user=user, envs=envs, cwd=cwd)
        try:
            async with asyncio.timeout(deadline.total_seconds()):
                async for event in stream:
                    started = event.get("start")
                    if isinstance(started, dict):
                        return int(started.get("pid", 0))
        except TimeoutError as error:
            raise GuestFailure(f"the guest did not start {argv[0]} in time") from error
        finally:
            await stream.aclose()
        raise GuestFailure(f"the guest did not start {argv[0]}")

    async def usage(self, *, access_token: str | None, deadline: timedelta) -> tuple[Usage, LogCursor | None]:
        """Ask the agent what its machine uses, and where its log ends by now."""
        payload, headers = await self._document("/metrics", access_token, deadline, max_bytes=_MAX_METRICS_BYTES)
        return parse_usage(payload), parse_log_end(headers.get("X-Log-End"))

    async def logs(self, cursor: LogCursor, *, access_token: str | None, deadline: timedelta) -> GuestLogPage:
        """Ask the agent what its processes said since `cursor`."""
        path = f"/logs?epoch={cursor.epoch}&after={cursor.after}"
        payload, _ = await self._document(path, access_token, deadline, max_bytes=MAX_PAGE_BYTES)
        return parse_log_page(payload)

    async def _document(
        self, path: str, access_token: str | None, deadline: timedelta, *, max_bytes: int
    ) -> tuple[bytes, Mapping[str, str]]:
        headers = {"Accept-Encoding": "identity"}
        if access_token is not None:
            headers["X-Access-Token"] = access_token
        payload = bytearray()
        async with self._call("GET", path, deadline=deadline, headers=headers) as response:
            while chunk := await response.content.read(64 * 1024):
                payload += chunk
                if len(payload) > max_bytes:
                    raise GuestFailure(f"the guest agent's answer to {path} is too long")
            return bytes(payload), response.headers

    async def upload(self, path: str, content: AsyncIterable[bytes], *, user: str, deadline: timedelta) -> None:
        """Write a file in the guest from a stream. GuestRefused with code 507 means that its disk is full."""
        url = URL(self._base).with_path("/files").with_query(path=path, username=user)
        headers = {"Content-Type": "application/octet-stream"}
        async with self._call("POST", url, deadline=deadline, data=content, headers=headers):
            return

    async def http_status(self, port: int, path: str, *, deadline: timedelta) -> int | None:
        """Return the status a service in the guest answers with, or None while nothing answers there."""
        timeout = aiohttp.ClientTimeout(total=deadline.total_seconds())
        try:
            async with self._session.get(
                f"http://{self._address}:{port}{path}", timeout=timeout, allow_redirects=False
            ) as response:
                return response.status
        except (aiohttp.ClientError, TimeoutError, OSError):
            return None

    async def _start(
        self,
        argv: tuple[str, ...],
        *,
        deadline: timedelta | None,
        access_token: str | None = None,
        user: str | None,
        envs: Mapping[str, str] | None,
        cwd: str | None,
    ) -> AsyncGenerator[dict[str, object], None]:
        config: dict[str, object] = {"cmd": argv[0], "args": list(argv[1:]), "envs": dict(envs or {})}
        if cwd is not None:
            config["cwd"] = cwd
        message = json.dumps({"process": config, "stdin": False}).encode()
        headers = {"Connect-Protocol-Version": "1", "Content-Type": "application/connect+json"}
        if access_token is not None:
            headers["X-Access-Token"] = access_token
        if user is not None:
            headers["Authorization"] = "Basic " + base64.b64encode(f"{user}:".encode()).decode()
        if deadline is not None:
            headers["Connect-Timeout-Ms"] = str(int(deadline.total_seconds() * 1000))
        async with self._call(
            "POST",
            "/process.Process/Start",
            # The guest enforces the deadline; ours is later, so that its own error is what is reported.
            deadline=deadline + timedelta(seconds=5) if deadline is not None else None,
            data=struct.pack(">BI", 0, len(message)) + message,
            headers=headers,
        ) as response:
            while True:
                try:
                    flags, length = struct.unpack(">BI", await response.content.readexactly(5))
                    if length > _MAX_ENVELOPE_BYTES:
                        raise GuestFailure(f"the guest sent a message of {length} bytes")
                    payload = json.loads(await response.content.readexactly(length))
                except (asyncio.IncompleteReadError, aiohttp.ClientError, ValueError, TimeoutError) as error:
                    raise GuestFailure(f"the guest's stream broke while running {argv[0]}: {error!r}") from error
                if not isinstance(payload, dict):
                    raise GuestFailure("the guest sent a message that is not an object")
                if flags & _END_OF_STREAM:
                    failure = payload.get("error")
                    if isinstance(failure, dict):
                        code, detail = str(failure.get("code"))[:64], str(failure.get("message"))[:512]
                        raise GuestRefused(f"failed to run {argv[0]!r}: {code}: {detail}", code=code, detail=detail)
                    return
                event = payload.get("event")
                if isinstance(event, dict):
                    yield event

    @asynccontextmanager
    async def _call(
        self,
        method: str,
        path: str | URL,
        *,
        deadline: timedelta | None,
        data: bytes | AsyncIterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        timeout = aiohttp.ClientTimeout(total=deadline.total_seconds() if deadline is not None else None)
        name = path if isinstance(path, str) else path.path
        try:
            async with self._session.request(
                method,
                self._base + path if isinstance(path, str) else path,
                data=data,
                headers=headers or {"Content-Type": "application/json"},
                timeout=timeout,
            ) as response:
                if response.status >= 400:
                    detail = (await response.content.read(512)).decode(errors="replace")
                    raise GuestRefused(
                        f"the guest agent answered {name} with {response.status}: {detail}",
                        code=str(response.status),
                        detail=detail,
                    )
                yield response
        except TimeoutError as error:
            raise GuestFailure(f"the guest agent did not answer {name} in time") from error
        except (aiohttp.ClientError, OSError) as error:
            raise GuestFailure(f"the guest agent cannot be reached for {name}: {error!r}") from error


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text)
    except ValueError as error:
        raise GuestFailure("the guest sent output that is not base64") from error


def _exit_code(end: Mapping[str, object]) -> int:
    code = end.get("exitCode", 0)
    if not isinstance(code, int):
        raise GuestFailure("the guest sent an exit code that is not a number")
    return code
