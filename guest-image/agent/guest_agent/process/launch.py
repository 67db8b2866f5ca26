"""From a command to a running process: pipes or a terminal around one spawn."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from guest_agent.process.events import Channel, Event
from guest_agent.process.input import InputWriter
from guest_agent.process.running import Process, ignore
from guest_agent.process.spawn import Command, Stdio, spawn
from guest_agent.process.terminal import TerminalSize, open_terminal

OnEnd = Callable[[Process], None]
OnEvent = Callable[[Event], None]


def launch_with_pipes(command: Command, *, stdin: bool, on_end: OnEnd, on_event: OnEvent = ignore) -> Process:
    """Start `command` with stdout and stderr apart, and a pipe or /dev/null as stdin. Raise OSError."""
    with ExitStack() as theirs, ExitStack() as ours:
        stdout, their_stdout = _output_pipe(ours, theirs)
        stderr, their_stderr = _output_pipe(ours, theirs)
        writer = None
        their_stdin: str | int = "/dev/null"
        if stdin:
            their_stdin, our_stdin = _pipe(theirs, ours)
            writer = InputWriter(our_stdin)
        for descriptor in (stdout, stderr):
            os.set_blocking(descriptor, False)
        pid = spawn(command, Stdio(their_stdin, their_stdout, their_stderr))
        with _killed_on_failure(pid):
            process = Process(
                pid,
                outputs={stdout: Channel.STDOUT, stderr: Channel.STDERR},
                stdin=writer,
                terminal=None,
                on_end=on_end,
                on_event=on_event,
            )
        ours.pop_all()
        return process


def launch_on_terminal(command: Command, size: TerminalSize, *, on_end: OnEnd, on_event: OnEvent = ignore) -> Process:
    """Start `command` on a new terminal. Raise OSError."""
    with ExitStack() as theirs, ExitStack() as ours:
        terminal = open_terminal(size, command.user)
        theirs.callback(os.close, terminal.follower)
        ours.callback(os.close, terminal.leader)
        os.set_blocking(terminal.leader, False)
        writer = InputWriter(os.dup(terminal.leader))
        ours.callback(writer.close)
        pid = spawn(command, Stdio(terminal.path, 0, 0))
        with _killed_on_failure(pid):
            process = Process(
                pid,
                outputs={terminal.leader: Channel.PTY},
                stdin=None,
                terminal=writer,
                on_end=on_end,
                on_event=on_event,
            )
        ours.pop_all()
        return process


@contextmanager
def _killed_on_failure(pid: int) -> Iterator[None]:
    """Leave no child behind that nobody would reap."""
    try:
        yield
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise


def _pipe(readers: ExitStack, writers: ExitStack) -> tuple[int, int]:
    """Return the read and the write end, each closed by its stack."""
    read_end, write_end = os.pipe()
    readers.callback(os.close, read_end)
    writers.callback(os.close, write_end)
    return read_end, write_end


def _output_pipe(readers: ExitStack, writers: ExitStack) -> tuple[int, int]:
    """Return a pipe whose write end can be read from as well.

    The program then holds a read end itself: if the agent dies, writing does not end the program by SIGPIPE, and what
    it writes stays in the pipe for the agent that follows.
    """
    read_end, write_end = os.pipe()
    readers.callback(os.close, read_end)
    try:
        both_ends = os.open(f"/proc/self/fd/{write_end}", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        # No /proc: the program works all the same, but does not outlive the agent's pipes.
        writers.callback(os.close, write_end)
        return read_end, write_end
    os.close(write_end)
    writers.callback(os.close, both_ends)
    return read_end, both_ends
