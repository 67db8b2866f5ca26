"""The RPCs of process.Process."""

from __future__ import annotations

import stat
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path

from guest_agent.connect import Batch, Call
from guest_agent.context import Context
from guest_agent.envelope import JsonObject
from guest_agent.errors import Code, RpcError
from guest_agent.logs.page import MAX_LINE
from guest_agent.logs.process_log import LOGGER, ProcessLog
from guest_agent.logs.ring import LogRing
from guest_agent.process import wire
from guest_agent.process.launch import launch_on_terminal, launch_with_pipes
from guest_agent.process.registry import Entry, Registry
from guest_agent.process.running import Process
from guest_agent.process.spawn import Command
from guest_agent.users import User


class ProcessService:
    """Starts programs and speaks for them."""

    def __init__(self, context: Context, registry: Registry, logs: LogRing) -> None:
        self._logs = logs
        self._context = context
        self._registry = registry

    async def start(self, call: Call, message: JsonObject) -> AsyncGenerator[Batch, None]:
        """Stream a new process. It goes on when the client leaves, and is killed at the call's timeout."""
        process = self._launch(call, wire.parse_start(message))
        if call.timeout is not None:
            process.kill_after(call.timeout)
        with process.subscribe() as subscription:
            async for batch in subscription.batches(call.keepalive):
                yield [wire.encode_event(event) for event in batch]
        if process.timed_out:
            raise RpcError(Code.DEADLINE_EXCEEDED, "the process was killed at its timeout")

    async def connect(self, call: Call, message: JsonObject) -> AsyncGenerator[Batch, None]:
        """Stream a process from now on."""
        process = self._registry.connectable(wire.parse_selector(message))
        with process.subscribe() as subscription:
            async for batch in subscription.batches(call.keepalive):
                yield [wire.encode_event(event) for event in batch]

    async def list_processes(self, _call: Call, _message: JsonObject) -> JsonObject:
        return {"processes": [_describe(entry) for entry in self._registry.running()]}

    async def update(self, _call: Call, message: JsonObject) -> JsonObject:
        process = self._registry.find(wire.parse_selector(message))
        size = wire.parse_resize(message)
        if size is not None:
            process.resize(size)
        return {}

    async def send_input(self, _call: Call, message: JsonObject) -> JsonObject:
        process = self._registry.find(wire.parse_selector(message))
        await _write(process, wire.parse_input(message))
        return {}

    async def stream_input(self, _call: Call, messages: AsyncIterator[JsonObject]) -> JsonObject:
        process: Process | None = None
        async for message in messages:
            event = wire.parse_stream_input(message)
            if isinstance(event, wire.StreamStart):
                process = self._registry.find(event.selector)
            elif event is not None and process is None:
                raise RpcError(Code.INVALID_ARGUMENT, "data before start")
            elif event is not None and process is not None:
                await _write(process, event)
        return {}

    async def send_signal(self, _call: Call, message: JsonObject) -> JsonObject:
        process = self._registry.find(wire.parse_selector(message))
        process.signal(wire.parse_signal(message))
        return {}

    async def close_stdin(self, _call: Call, message: JsonObject) -> JsonObject:
        self._registry.find(wire.parse_selector(message)).close_stdin()
        return {}

    def _launch(self, call: Call, request: wire.StartRequest) -> Process:
        user = self._context.user(call.user_name)
        config = request.config
        command = Command(
            argv=(config.cmd, *config.args),
            env=self._context.environment(user, config.envs),
            cwd=self._working_directory(config.cwd, user),
            user=user,
        )
        log = ProcessLog(self._logs)
        try:
            if request.terminal is not None:
                process = launch_on_terminal(command, request.terminal, on_end=self._registry.ended, on_event=log)
            else:
                process = launch_with_pipes(command, stdin=request.stdin, on_end=self._registry.ended, on_event=log)
        except (OSError, ValueError) as error:
            # ValueError: a zero byte in an argument, or `=` in the name of a variable.
            reason = error.strerror if isinstance(error, OSError) else str(error)
            message = f"error starting process '{config.cmd}': {reason}"
            self._logs.note("error", LOGGER, message[:MAX_LINE])
            raise RpcError(Code.INVALID_ARGUMENT, message) from error
        log.started(process.pid, config, request.tag)
        self._registry.add(Entry(process, config, request.tag))
        return process

    def _working_directory(self, requested: str | None, user: User) -> str:
        path = self._context.path(requested or "", user)
        if _is_directory(path):
            return path
        if requested:
            raise RpcError(Code.INVALID_ARGUMENT, f"cwd '{path}' does not exist")
        # The image lacks its own default directory; a command that did not ask for it still runs.
        return user.home if _is_directory(user.home) else "/"


def _is_directory(path: str) -> bool:
    try:
        return stat.S_ISDIR(Path(path).stat().st_mode)
    except (OSError, ValueError):
        return False


async def _write(process: Process, content: wire.Input) -> None:
    if content.to_terminal:
        await process.write_terminal(content.data)
    else:
        await process.write_stdin(content.data)


def _describe(entry: Entry) -> JsonObject:
    message: JsonObject = {"config": entry.config.encode(), "pid": entry.process.pid}
    if entry.tag is not None:
        message["tag"] = entry.tag
    return message
