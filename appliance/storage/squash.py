"""Merge worker and sqfstar as one pipe: layer blobs in, a squashfs file out.

sqfstar (squashfs-tools) rather than tar2sqfs (squashfs-tools-ng): both keep xattrs, capabilities, hard links, also of
symbolic links, FIFOs and 32-bit owners. But with LZ4, the only fast codec it has, tar2sqfs 1.2 writes short blocks
that are larger than their content, which unsquashfs refuses; and only sqfstar can leave all uncompressed, which costs
a guest no processor time and lets the host's page cache serve it as it is.

What sqfstar 4.5 cannot do is take the root directory's attributes from the archive. Overlayfs takes them from the
upper disk. Its time would be the time of day, and the digest a new one every second: see `pack_environment`.
"""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import appliance
from appliance.domain.errors import DiskFull, ImageRejected, StorageFailure
from appliance.storage import merge_worker
from appliance.storage.confinement import Ceiling, confined
from appliance.storage.merge_job import MergeJob, MergeReport

_MERGE_ADDRESS_SPACE_BYTES = 2**30
"""Room for the names of two million entries and a zstd window."""

_PACK_ADDRESS_SPACE_BYTES = 4 * 2**30
_PACK_MEMORY_MIB = 256
"""sqfstar's own budget for its queues; its table of inodes comes on top."""

_PACK_THREADS = 2
_PACK_TASKS_MAX = 64
"""sqfstar has a reader, a writer, a progress thread and several of each kind of worker."""

_STDERR_TAIL_BYTES = 8192

# Nothing of ours is inherited: Cubelet's environment may hold what a parser must not see.
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}

_TOO_SLOW = (-signal.SIGXCPU, -signal.SIGKILL)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a process of the pipe ended."""

    returncode: int
    stderr: bytes


async def squash(job: MergeJob, output_fd: int, *, room_bytes: int, duration: timedelta) -> MergeReport:
    """Write the squashfs of the job's layers to the empty file `output_fd`, at most `room_bytes` of it.

    However this ends, both processes have. Raises `ImageRejected`, `DiskFull` or `StorageFailure`.
    """
    try:
        async with asyncio.timeout(duration.total_seconds()):
            return await _squash(job, output_fd, room_bytes, duration)
    except TimeoutError:
        raise _took_too_long(duration) from None


async def _squash(job: MergeJob, output_fd: int, room_bytes: int, duration: timedelta) -> MergeReport:
    cpu_s = max(1, int(duration.total_seconds()))
    async with AsyncExitStack() as stack:
        read_end, write_end = os.pipe()
        try:
            merge_argv = confined(_merge_argv(), Ceiling(_MERGE_ADDRESS_SPACE_BYTES, cpu_s, file_bytes=0, tasks=1))
            blob_fds = sorted({layer.fd for layer in job.layers})
            worker = await stack.enter_async_context(
                _child(merge_argv, _merge_environment(), stdin=PIPE, stdout=write_end, pass_fds=blob_fds)
            )
            os.close(write_end)
            write_end = -1
            await _tell(worker, job.to_json())
            decision = await _first_line(worker)
            report = _report(decision)
            if report is None or report.rule is not None:
                raise _merge_failure(await _end(worker, decision), duration)
            pack_ceiling = Ceiling(
                _PACK_ADDRESS_SPACE_BYTES, cpu_s * _PACK_THREADS, file_bytes=room_bytes, tasks=_PACK_TASKS_MAX
            )
            packer = await stack.enter_async_context(
                _child(
                    confined(pack_argv(output_fd), pack_ceiling),
                    pack_environment(report.newest_mtime),
                    stdin=read_end,
                    stdout=DEVNULL,
                    pass_fds=(output_fd,),
                )
            )
        finally:
            os.close(read_end)
            if write_end >= 0:
                os.close(write_end)
        merged, packed = await asyncio.gather(_end(worker), _end(packer))
    _check(merged, packed, duration)
    return report


def pack_argv(output_fd: int) -> list[str]:
    """Return sqfstar's argv. The number of threads does not show in the file."""
    return [
        "sqfstar",
        # Nothing is compressed, but the codec that the superblock names must be one that every guest kernel has.
        "-comp",
        "gzip",
        "-noI",
        "-noId",
        "-noD",
        "-noF",
        "-noX",
        "-root-mode",
        "0755",
        "-mem",
        f"{_PACK_MEMORY_MIB}M",
        "-processors",
        str(_PACK_THREADS),
        # What it cannot store is an error, not something to leave out quietly.
        "-exit-on-error",
        "-no-progress",
        "-quiet",
        "-force",
        f"/proc/self/fd/{output_fd}",
    ]


def pack_environment(newest_mtime: int) -> dict[str, str]:
    """Return the environment in which the same archive gives the same file.

    SOURCE_DATE_EPOCH caps every time stamp; the newest one in the archive caps only those that sqfstar would take from
    the clock, the root directory's and its own.
    """
    return _ENVIRONMENT | {"SOURCE_DATE_EPOCH": str(newest_mtime)}


def _merge_argv() -> list[str]:
    return [sys.executable, "-P", "-m", merge_worker.__name__]


def _merge_environment() -> dict[str, str]:
    return _ENVIRONMENT | {"PYTHONPATH": str(Path(appliance.__file__).parents[1]), "PYTHONDONTWRITEBYTECODE": "1"}


@asynccontextmanager
async def _child(
    argv: Sequence[str], env: Mapping[str, str], *, stdin: int, stdout: int, pass_fds: Sequence[int]
) -> AsyncIterator[Process]:
    try:
        process = await asyncio.create_subprocess_exec(
            *argv, stdin=stdin, stdout=stdout, stderr=PIPE, pass_fds=pass_fds, env=env
        )
    except OSError as error:
        raise StorageFailure(f"{argv[0]} cannot be started: {error.strerror}") from error
    try:
        yield process
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def _tell(process: Process, message: bytes) -> None:
    assert process.stdin is not None
    # A process that died early says why by its status.
    with suppress(BrokenPipeError, ConnectionResetError):
        process.stdin.write(message)
        await process.stdin.drain()
    process.stdin.close()


async def _first_line(process: Process) -> bytes:
    assert process.stderr is not None
    try:
        return await process.stderr.readline()
    except ValueError:  # The line is longer than any report.
        return b""


async def _end(process: Process, tail: bytes = b"") -> Ended:
    assert process.stderr is not None
    while chunk := await process.stderr.read(_STDERR_TAIL_BYTES):
        tail = (tail + chunk)[-_STDERR_TAIL_BYTES:]
    return Ended(await process.wait(), tail)


def _check(merged: Ended, packed: Ended, duration: timedelta) -> None:
    """Raise the failure that caused the others, if there is any."""
    if merged.returncode not in (0, merge_worker.EXIT_READER_GONE):
        raise _merge_failure(merged, duration)
    if packed.returncode in _TOO_SLOW:
        raise _took_too_long(duration)
    if packed.returncode == -signal.SIGXFSZ or _says_full(packed.stderr):
        raise DiskFull("the node's disk has no room for the layers of the image")
    if packed.returncode != 0 or merged.returncode != 0:
        raise StorageFailure(f"sqfstar ended with {packed.returncode}: {_last_line(packed.stderr)}")


def _merge_failure(merged: Ended, duration: timedelta) -> StorageFailure:
    lines = merged.stderr.splitlines()
    report = _report(lines[-1]) if lines else None
    if merged.returncode == merge_worker.EXIT_REJECTED and report is not None and report.rule is not None:
        return ImageRejected(report.rule, report.detail)
    if merged.returncode in _TOO_SLOW:
        return _took_too_long(duration)
    return StorageFailure(f"the merge worker ended with {merged.returncode}: {_last_line(merged.stderr)}")


def _report(line: bytes) -> MergeReport | None:
    try:
        return MergeReport.from_json(line)
    except (ValueError, TypeError):
        return None


def _took_too_long(duration: timedelta) -> ImageRejected:
    return ImageRejected("duration", f"its layers take longer than {duration.total_seconds():g} s to merge")


def _says_full(stderr: bytes) -> bool:
    return any(os.strerror(code).encode() in stderr for code in _FULL)


def _last_line(stderr: bytes) -> str:
    lines = stderr.decode(errors="replace").strip().splitlines()
    return lines[-1][:500] if lines else "it said nothing"
