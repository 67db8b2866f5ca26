"""A guest's RAM that is a private mapping of a file: where it lies in its VMM, and which of its pages have changed.

The kernel tells by the page table. A page that was written is the process's own, in memory or swapped out; one that was
only read is the file's. So neither the VMM nor the guest has to keep track, and a machine that is never saved pays
nothing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from appliance.domain.errors import VmmFailure

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

_ENTRY_BYTES = 8
# Of the top byte of a page's entry in pagemap (Documentation/admin-guide/mm/pagemap.rst): bit 7 is "present", bit 6
# "swapped", bit 5 "a page of a file". Own pages are those with bit 7 or 6, and without bit 5.
_OWN_PAGES = re.compile(b"[" + b"".join(b"\\x%02x" % b for b in range(256) if b & 0xC0 and not b & 0x20) + b"]+")
_PAGES_A_READ = 2**17


@dataclass(frozen=True, slots=True)
class PageRun:
    """Pages of RAM that follow each other, counted from its start."""

    first: int
    count: int


@dataclass(frozen=True, slots=True)
class Mapping:
    """A part of the file in the address space of the VMM. All in bytes."""

    address: int
    offset: int
    """Where the part begins in the file, and so in the guest's RAM."""
    size: int


def private_mappings(maps: str, inode: int) -> list[Mapping]:
    """Return where the file `inode` is mapped writable and private, by offset, from the text of /proc/<pid>/maps.

    By its inode alone: the device that maps names is not the one that stat names on btrfs, and the path not ours in
    another mount namespace. Whoever asks must check that the parts are the whole file.
    """
    line = re.compile(rf"^([0-9a-f]+)-([0-9a-f]+) rw-p ([0-9a-f]+) \S+ {inode}(?:\s|$)", re.MULTILINE)
    found = [tuple(int(number, 16) for number in match.groups()) for match in line.finditer(maps)]
    return sorted((Mapping(start, offset, end - start) for start, end, offset in found), key=lambda part: part.offset)


def own_pages(pagemap: bytes, first: int = 0) -> Iterator[PageRun]:
    """Yield the runs of pages that belong to the process, from entries of /proc/<pid>/pagemap of pages from `first`."""
    for match in _OWN_PAGES.finditer(pagemap[_ENTRY_BYTES - 1 :: _ENTRY_BYTES]):
        yield PageRun(first + match.start(), match.end() - match.start())


class PrivateMemory:
    """RAM of one VMM process. Its calls block; the machine must be paused while they run."""

    def __init__(self, pagemap: int, memory: int, original: int, mappings: Sequence[Mapping]) -> None:
        self._pagemap = pagemap
        self._memory = memory
        self._original = original
        self._mappings = mappings

    def changed(self) -> list[PageRun]:
        """Return the pages that are no longer the file's. What is in them may be the same."""
        runs: list[PageRun] = []
        for part in self._mappings:
            pages = part.size // PAGE_BYTES
            for start in range(0, pages, _PAGES_A_READ):
                count = min(_PAGES_A_READ, pages - start)
                position = (part.address // PAGE_BYTES + start) * _ENTRY_BYTES
                entries = os.pread(self._pagemap, count * _ENTRY_BYTES, position)
                if len(entries) != count * _ENTRY_BYTES:
                    raise VmmFailure("the VMM ended while its pages were looked at")
                runs += own_pages(entries, part.offset // PAGE_BYTES + start)
        return runs

    def read_into(self, buffer: memoryview, position: int) -> None:
        """Fill `buffer` with the RAM at `position`, in bytes. It may not cross the end of a mapping."""
        if os.preadv(self._memory, [buffer], self._address(position, len(buffer))) != len(buffer):
            raise VmmFailure("the VMM ended while its memory was read")

    def read_original_into(self, buffer: memoryview, position: int) -> None:
        """Fill `buffer` with what the file has at `position`, in bytes."""
        if os.preadv(self._original, [buffer], position) != len(buffer):
            raise VmmFailure("the memory file ends early")

    def write(self, data: memoryview, position: int) -> None:
        """Change the RAM at `position`, in bytes, as the guest would: its pages become the VMM's own."""
        if os.pwrite(self._memory, data, self._address(position, len(data))) != len(data):
            raise VmmFailure("the VMM ended while its memory was written")

    def _address(self, position: int, size: int) -> int:
        for part in self._mappings:
            if part.offset <= position and position + size <= part.offset + part.size:
                return part.address + position - part.offset
        raise VmmFailure(f"the guest has no memory at {position:#x}")


@contextmanager
def private_memory(pid: int, memory_file: Path) -> Iterator[PrivateMemory]:
    """Open the RAM of the VMM `pid`, which must map the whole of `memory_file`, privately.

    What is opened is the process's address space: should the process end and its pid be used again, nobody else's
    memory is touched.
    """
    opened: list[int] = []
    try:
        opened += [os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)]
        opened += [os.open(f"/proc/{pid}/mem", os.O_RDWR | os.O_CLOEXEC)]
        opened += [os.open(memory_file, os.O_RDONLY | os.O_CLOEXEC)]
        file = os.fstat(opened[2])
        mappings = private_mappings(Path(f"/proc/{pid}/maps").read_text(), file.st_ino)
        if sum(part.size for part in mappings) != file.st_size:
            raise VmmFailure(f"the machine is no clone of {memory_file}")
        pagemap, memory, original = opened
        yield PrivateMemory(pagemap, memory, original, mappings)
    except OSError as error:
        raise VmmFailure(f"the memory of process {pid}: {error.strerror}") from error
    finally:
        for fd in opened:
            os.close(fd)
