"""The processes that clients started."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from guest_agent.errors import Code, RpcError
from guest_agent.process.running import Process
from guest_agent.process.wire import ProcessConfig, Selector

KEEP_ENDED_S = 30.0
"""How long a client that lost its stream can still learn how the process ended."""


@dataclass(frozen=True, slots=True)
class Entry:
    process: Process
    config: ProcessConfig
    tag: str | None


class Registry:
    """Finds processes by pid or tag. Ended ones are found by `connectable` only, for a while."""

    def __init__(self) -> None:
        self._entries: dict[int, Entry] = {}

    def add(self, entry: Entry) -> None:
        self._entries[entry.process.pid] = entry

    def ended(self, process: Process) -> None:
        """Let go of the process after a while. Called once, when it ends."""
        asyncio.get_running_loop().call_later(KEEP_ENDED_S, self._forget, process)

    def _forget(self, process: Process) -> None:
        entry = self._entries.get(process.pid)
        # The kernel may have given the pid to a newer process.
        if entry is not None and entry.process is process:
            del self._entries[process.pid]

    def running(self) -> list[Entry]:
        return [entry for entry in self._entries.values() if entry.process.ended is None]

    def find(self, selector: Selector) -> Process:
        """Return the running process, or raise RpcError not_found."""
        process = self.connectable(selector)
        if process.ended is not None:
            raise _not_found(selector)
        return process

    def connectable(self, selector: Selector) -> Process:
        """Return the process, running or lately ended, or raise RpcError not_found."""
        if selector.pid is not None:
            entry = self._entries.get(selector.pid)
        else:
            matching = [entry for entry in self._entries.values() if entry.tag == selector.tag]
            # A tag may have been used again after its first process ended.
            entry = min(matching, key=lambda entry: entry.process.ended is not None, default=None)
        if entry is None:
            raise _not_found(selector)
        return entry.process


def _not_found(selector: Selector) -> RpcError:
    name = f"pid {selector.pid}" if selector.pid is not None else f"tag {selector.tag}"
    return RpcError(Code.NOT_FOUND, f"process with {name} not found")
