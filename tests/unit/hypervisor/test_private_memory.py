from __future__ import annotations

import struct

import pytest

from appliance.hypervisor.private_memory import Mapping, PageRun, own_pages, private_mappings

PRESENT, SWAPPED, OF_FILE = 1 << 63, 1 << 62, 1 << 61
EXCLUSIVE, SOFT_DIRTY = 1 << 56, 1 << 55
FRAME = 0x1234

MAPS = """\
55d0c0000000-55d0c0200000 rw-p 00000000 fe:00 77                         /usr/bin/qemu-system-x86_64
7f0000000000-7f0000004000 rw-p 00000000 fe:00 4711                       /var/lib/cube/a b/memory
7f0000004000-7f0000005000 rw-p 00000000 00:00 0
7f1000000000-7f1000008000 rw-p 00004000 fe:00 4711                       /var/lib/cube/a b/memory (deleted)
7f2000000000-7f2000008000 r--p 00000000 fe:00 4711                       /var/lib/cube/a b/memory
7f3000000000-7f3000008000 rw-s 00000000 fe:00 4711                       /var/lib/cube/a b/memory
7f4000000000-7f4000001000 rw-p 00000000 fe:00 47110                      /elsewhere
"""


def pagemap(*entries: int) -> bytes:
    return struct.pack(f"<{len(entries)}Q", *entries)


@pytest.mark.parametrize("own", [PRESENT, SWAPPED, PRESENT | EXCLUSIVE | SOFT_DIRTY | FRAME])
@pytest.mark.parametrize("other", [0, PRESENT | OF_FILE, PRESENT | OF_FILE | EXCLUSIVE | FRAME, SWAPPED | OF_FILE])
def test_own_pages_are_those_in_memory_or_swap_that_are_no_file_s(own: int, other: int) -> None:
    assert list(own_pages(pagemap(other, own, own, other, own))) == [PageRun(1, 2), PageRun(4, 1)]


def test_pages_are_counted_from_the_first_asked_for() -> None:
    assert list(own_pages(pagemap(0, PRESENT), first=100)) == [PageRun(101, 1)]


def test_frame_numbers_are_not_mistaken_for_flags() -> None:
    assert list(own_pages(pagemap((1 << 55) - 1, SOFT_DIRTY))) == []


def test_only_private_writable_mappings_of_the_file_count() -> None:
    assert private_mappings(MAPS, 4711) == [
        Mapping(address=0x7F0000000000, offset=0, size=0x4000),
        Mapping(address=0x7F1000000000, offset=0x4000, size=0x8000),
    ]
