"""A started process: its output fanned out to listeners, its input, its end."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import struct
import termios
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta

from guest_agent.errors import Code, RpcError
from guest_agent.process.events import UNKNOWN_END, Channel, Ended, Event, Output, Started, ended
from guest_agent.process.input import InputWriter
from guest_agent.process.subscription import Subscription
from guest_agent.process.terminal import TerminalSize, resize

_TERMINAL_GRACE_S = 0.2
_CHUNK_BYTES = {Channel.STDOUT: 32 * 1024, Channel.STDERR: 32 * 1024, Channel.PTY: 16 * 1024}


def ignore(_event: Event) -> None:
    """Listen to nothing."""


class Process:
    """A child of the agent, or of its predecessor.

    It lives on when its listeners leave; output that nobody listens to is dropped.

    The end is told when the process itself has ended and what it wrote has been read. Programs it left behind may go on
    writing to its pipes: that is read and dropped, so they do not block or die of a broken pipe.
    """

    def __init__(
        self,
        pid: int,
        *,
        outputs: Mapping[int, Channel],
        stdin: InputWriter | None,
        terminal: InputWriter | None,
        on_end: Callable[[Process], None],
        on_event: Callable[[Event], None] = ignore,
    ) -> None:
        """Take over the descriptors in `outputs`, which must be non-blocking. Must be called within the event loop.

        Raises OSError, and has taken over nothing, where no descriptor is left to watch the process with.
        """
        self._pidfd = os.pidfd_open(pid)
        self.pid = pid
        self.ended: Ended | None = None
        self.timed_out = False
        self._end: Ended | None = None
        self._stdin = stdin
        self._terminal = terminal
        self._terminal_descriptor = next((fd for fd, channel in outputs.items() if channel is Channel.PTY), None)
        self._outputs = dict(outputs)
        self._on_end = on_end
        self._on_event = on_event
        self._subscriptions: set[Subscription] = set()
        self._paused = False
        self._deadline: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._pidfd, self._reap)
        self._listen()

    @contextmanager
    def subscribe(self) -> Iterator[Subscription]:
        """Listen from now on. A process that has ended still tells its start and end."""
        subscription = Subscription(Started(self.pid), self._resume_if_drained)
        if self.ended is not None:
            subscription.put(self.ended)
        self._subscriptions.add(subscription)
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)
            self._resume_if_drained()

    def kill_after(self, timeout: timedelta) -> None:
        self._deadline = self._loop.call_later(timeout.total_seconds(), self._time_out)

    def _time_out(self) -> None:
        self.timed_out = True
        self.signal(signal.SIGKILL)

    def signal(self, number: signal.Signals) -> None:
        """Signal the process and what it started in its group. A process that has ended is success."""
        if self._end is None:
            # Not reaped, so the pid is still its own; it leads the group of the same number.
            with suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    async def write_stdin(self, data: bytes) -> None:
        if self._stdin is None:
            raise RpcError(Code.FAILED_PRECONDITION, "stdin not enabled or closed")
        await self._stdin.write(data)

    async def write_terminal(self, data: bytes) -> None:
        if self._terminal is None:
            raise RpcError(Code.FAILED_PRECONDITION, "no terminal: input goes to the stdin of this process")
        await self._terminal.write(data)

    def close_stdin(self) -> None:
        if self._terminal is not None:
            raise RpcError(Code.FAILED_PRECONDITION, "a terminal has no end: send Ctrl+D (0x04) instead")
        if self._stdin is not None:
            self._stdin.close()

    def resize(self, size: TerminalSize) -> None:
        if self._terminal_descriptor is None:
            raise RpcError(Code.FAILED_PRECONDITION, "the process has no terminal")
        resize(self._terminal_descriptor, size)

    def _publish(self, event: Event) -> None:
        self._on_event(event)
        for subscription in self._subscriptions:
            subscription.put(event)

    def _listen(self) -> None:
        for descriptor in self._outputs:
            self._loop.add_reader(descriptor, self._read, descriptor)

    def _read(self, descriptor: int) -> None:
        channel = self._outputs[descriptor]
        try:
            data = os.read(descriptor, _CHUNK_BYTES[channel])
        except BlockingIOError:
            return
        except OSError:
            # EIO: the last program has closed the terminal.
            data = b""
        if not data:
            self._close_output(descriptor)
            return
        if self.ended is not None:
            return
        self._publish(Output(channel, data))
        if self._end is None and any(subscription.full for subscription in self._subscriptions):
            self._paused = True
            for paused in self._outputs:
                self._loop.remove_reader(paused)

    def _resume_if_drained(self) -> None:
        if self._paused and not any(subscription.full for subscription in self._subscriptions):
            self._paused = False
            self._listen()

    def _close_output(self, descriptor: int) -> None:
        del self._outputs[descriptor]
        if descriptor == self._terminal_descriptor:
            # The writer owns a copy of its own, so closing this one ends reading only.
            self._terminal_descriptor = None
        self._loop.remove_reader(descriptor)
        os.close(descriptor)
        if self._end is not None and not self._outputs:
            self._finish(self._end)

    def _reap(self) -> None:
        """Collect the exit status at once: a zombie still answers `kill -0`."""
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        try:
            _, status = os.waitpid(self.pid, 0)
            self._end = ended(status)
        except ChildProcessError:
            # Adopted from an agent that died: only a parent learns the status.
            self._end = UNKNOWN_END
        if self._deadline is not None:
            self._deadline.cancel()
        if self._paused:
            self._paused = False
            self._listen()
        if self._terminal_descriptor is not None:
            # The kernel hands terminal output on a little later than it is written. The terminal closes after the last
            # of it, unless a background program holds it open.
            self._loop.call_later(_TERMINAL_GRACE_S, self._finish, self._end)
            return
        for descriptor, channel in list(self._outputs.items()):
            self._publish_rest(descriptor, channel)
        self._finish(self._end)

    def _finish(self, end: Ended) -> None:
        if self.ended is not None:
            return
        for writer in (self._stdin, self._terminal):
            if writer is not None:
                writer.close()
        self.ended = end
        self._publish(end)
        self._on_end(self)

    def _publish_rest(self, descriptor: int, channel: Channel) -> None:
        """Publish what the process had written to a pipe when it ended, and no more than that."""
        left = struct.unpack("i", fcntl.ioctl(descriptor, termios.FIONREAD, b"\0\0\0\0"))[0]
        while left > 0:
            data = os.read(descriptor, min(left, _CHUNK_BYTES[channel]))
            left -= len(data)
            self._publish(Output(channel, data))
