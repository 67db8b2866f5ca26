"""The pages that a clone changed, as a file: an index of runs, then the pages, one after the other.

    magic            8 bytes, names this format and its version
    runs             8 bytes, how many
    runs x           4 bytes first page, 4 bytes how many pages; ascending
    (zeros up to a multiple of the page size)
    pages

Numbers are little-endian. It costs the pages and 8 bytes a run, and is read and written from one end to the other.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator, Sequence

from appliance.domain.errors import VmmFailure
from appliance.hypervisor.private_memory import PAGE_BYTES, PageRun, PrivateMemory

_MAGIC = b"cubepg01"
_HEADER = struct.Struct("<8sQ")
_RUN = struct.Struct("<II")
_BUFFER_PAGES = 1024


def save_changed_pages(memory: PrivateMemory, fd: int) -> int:
    """Write the pages that differ from the memory file to the empty file `fd`, and return how many they are. Blocks."""
    runs = memory.changed()
    os.ftruncate(fd, _data_offset(len(runs)))
    _write(fd, memoryview(_index(runs)), 0)
    position = _data_offset(len(runs))
    buffer = memoryview(bytearray(_BUFFER_PAGES * PAGE_BYTES))
    for batch in batches(runs, _BUFFER_PAGES):
        filled = 0
        for run in batch:
            size = run.count * PAGE_BYTES
            memory.read_into(buffer[filled : filled + size], run.first * PAGE_BYTES)
            filled += size
        _write(fd, buffer[:filled], position)
        position += filled
    return sum(run.count for run in runs)


def apply_changed_pages(fd: int, memory: PrivateMemory) -> None:
    """Put the pages in the file `fd` where they were. Blocks."""
    runs = _read_index(fd)
    position = _data_offset(len(runs))
    buffer = memoryview(bytearray(_BUFFER_PAGES * PAGE_BYTES))
    for batch in batches(runs, _BUFFER_PAGES):
        wanted = buffer[: sum(run.count for run in batch) * PAGE_BYTES]
        if os.preadv(fd, [wanted], position) != len(wanted):
            raise VmmFailure("the file of changed pages ends early")
        position += len(wanted)
        for run in batch:
            size = run.count * PAGE_BYTES
            memory.write(wanted[:size], run.first * PAGE_BYTES)
            wanted = wanted[size:]


def batches(runs: Iterable[PageRun], pages: int) -> Iterator[list[PageRun]]:
    """Yield the runs in groups of at most `pages` pages, splitting those that are larger than what is left."""
    batch: list[PageRun] = []
    room = pages
    for run in runs:
        first, left = run.first, run.count
        while left:
            count = min(left, room)
            batch.append(PageRun(first, count))
            first, left, room = first + count, left - count, room - count
            if not room:
                yield batch
                batch, room = [], pages
    if batch:
        yield batch


def _data_offset(runs: int) -> int:
    index = _HEADER.size + runs * _RUN.size
    return -(-index // PAGE_BYTES) * PAGE_BYTES


def _index(runs: Sequence[PageRun]) -> bytes:
    return _HEADER.pack(_MAGIC, len(runs)) + b"".join(_RUN.pack(run.first, run.count) for run in runs)


def _read_index(fd: int) -> list[PageRun]:
    header = os.pread(fd, _HEADER.size, 0)
    if len(header) != _HEADER.size or not header.startswith(_MAGIC):
        raise VmmFailure("not a file of changed pages")
    size = _HEADER.unpack(header)[1] * _RUN.size
    # The file's size first: what is no index must not be taken for gigabytes of one.
    if _HEADER.size + size > os.fstat(fd).st_size:
        raise VmmFailure("the file of changed pages ends early")
    index = os.pread(fd, size, _HEADER.size)
    return [PageRun(first, count) for first, count in _RUN.iter_unpack(index)]


def _write(fd: int, data: memoryview, position: int) -> None:
    while data:
        written = os.pwrite(fd, data, position)
        data, position = data[written:], position + written
