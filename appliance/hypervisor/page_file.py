"""The pages that a clone changed, as a file: the pages, one after the other, then an index of runs.

    magic            8 bytes, names this format and its version
    runs             8 bytes, how many
    pages            8 bytes, how many
    (zeros up to a multiple of the page size)
    pages
    runs x           4 bytes first page, 4 bytes how many pages; ascending

Numbers are little-endian. It costs the pages and 8 bytes a run, and is written in one pass over the pages.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterable, Iterator

from appliance.domain.errors import VmmFailure
from appliance.hypervisor.private_memory import PAGE_BYTES, PageRun, PrivateMemory

_MAGIC = b"cubepg02"
_HEADER = struct.Struct("<8sQQ")
_RUN = struct.Struct("<II")
_BUFFER_PAGES = 256
"""Copied at once: four times as many cost half as much time again, as they leave the processor's cache in between."""


def save_changed_pages(memory: PrivateMemory, fd: int) -> int:
    """Write the pages that differ from the memory file to the empty file `fd`, and return how many they are. Blocks.

    Of the pages that are no longer the file's, a fifth is as it was: written and put back, or freed and zero again.
    """
    runs: list[PageRun] = []
    position = PAGE_BYTES
    ram, original = bytearray(_BUFFER_PAGES * PAGE_BYTES), bytearray(_BUFFER_PAGES * PAGE_BYTES)
    kept = memoryview(ram)
    for batch in batches(memory.changed(), _BUFFER_PAGES):
        _read(batch, ram, memory.read_into)
        _read(batch, original, memory.read_original_into)
        filled = 0
        for run, start in _differing(batch, ram, original):
            size = run.count * PAGE_BYTES
            kept[filled : filled + size] = kept[start : start + size]
            runs.append(run)
            filled += size
        _write(fd, kept[:filled], position)
        position += filled
    _write(fd, memoryview(b"".join(_RUN.pack(run.first, run.count) for run in runs)), position)
    pages = position // PAGE_BYTES - 1
    _write(fd, memoryview(_HEADER.pack(_MAGIC, len(runs), pages)), 0)
    return pages


def apply_changed_pages(fd: int, memory: PrivateMemory) -> None:
    """Put the pages in the file `fd` where they were. Blocks."""
    position = PAGE_BYTES
    buffer = memoryview(bytearray(_BUFFER_PAGES * PAGE_BYTES))
    for batch in batches(_read_index(fd), _BUFFER_PAGES):
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


def _read(batch: Iterable[PageRun], buffer: bytearray, read_into: Callable[[memoryview, int], None]) -> None:
    """Fill the buffer with a batch, one run after the other."""
    rest = memoryview(buffer)
    for run in batch:
        size = run.count * PAGE_BYTES
        read_into(rest[:size], run.first * PAGE_BYTES)
        rest = rest[size:]


def _differing(batch: Iterable[PageRun], ram: bytearray, original: bytearray) -> Iterator[tuple[PageRun, int]]:
    """Yield the runs of a batch in which every page differs, and where each begins in the buffers."""
    start = 0
    for run in batch:
        first = count = 0
        for page in range(run.first, run.first + run.count):
            if ram[start : start + PAGE_BYTES] != original[start : start + PAGE_BYTES]:
                first = first if count else page
                count += 1
            elif count:
                yield PageRun(first, count), start - count * PAGE_BYTES
                count = 0
            start += PAGE_BYTES
        if count:
            yield PageRun(first, count), start - count * PAGE_BYTES


def _read_index(fd: int) -> list[PageRun]:
    header = os.pread(fd, _HEADER.size, 0)
    if len(header) != _HEADER.size or not header.startswith(_MAGIC):
        raise VmmFailure("not a file of changed pages")
    _, runs, pages = _HEADER.unpack(header)
    start, size = (1 + pages) * PAGE_BYTES, runs * _RUN.size
    # The file's size first: what is no index must not be taken for gigabytes of one.
    if start + size > os.fstat(fd).st_size:
        raise VmmFailure("the file of changed pages ends early")
    index = [PageRun(first, count) for first, count in _RUN.iter_unpack(os.pread(fd, size, start))]
    if sum(run.count for run in index) != pages:
        raise VmmFailure("the index of the file of changed pages is not that of its pages")
    return index


def _write(fd: int, data: memoryview, position: int) -> None:
    while data:
        written = os.pwrite(fd, data, position)
        data, position = data[written:], position + written
