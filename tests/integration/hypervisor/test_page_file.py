"""Changed pages of real processes: children of the test that map a file as a VMM maps a template's RAM."""

from __future__ import annotations

import os
import random
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from appliance.domain.errors import VmmFailure
from appliance.hypervisor.page_file import apply_changed_pages, save_changed_pages
from appliance.hypervisor.private_memory import PAGE_BYTES, PageRun, private_memory

PAGES = 5000
HEADER = struct.Struct("<8sQQ")

# Maps the file of its first argument as told by the second, flips a bit in each page named by a line of its input,
# reads a few others, and answers. Then it prints the whole when asked for it.
_CHILD = """
import mmap, os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
ram = mmap.mmap(fd, 0, flags=getattr(mmap, sys.argv[2]), prot=mmap.PROT_READ | mmap.PROT_WRITE)
for line in sys.stdin:
    if line == "print\\n":
        sys.stdout.buffer.write(ram[:])
        sys.stdout.flush()
        break
    for page in map(int, line.split()):
        ram[page * mmap.PAGESIZE + 17] ^= 1
    ram[0], ram[-1]
    print("done", flush=True)
"""


class Child:
    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self.pid = process.pid

    def change(self, *pages: int) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(" ".join(map(str, pages)).encode() + b"\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == b"done\n"

    def ram(self) -> bytes:
        return self._process.communicate(b"print\n", timeout=30)[0]

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


@contextmanager
def mapping(file: Path, flags: str = "MAP_PRIVATE") -> Iterator[Child]:
    with subprocess.Popen(
        [sys.executable, "-c", _CHILD, str(file), flags], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        child = Child(process)
        try:
            child.change()
            yield child
        finally:
            child.end()


@pytest.fixture
def template(tmp_path: Path) -> Path:
    path = tmp_path / "memory"
    path.write_bytes(random.Random(1).randbytes(PAGES * PAGE_BYTES))
    return path


@pytest.fixture
def saved(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "saved", os.O_RDWR | os.O_CREAT, 0o600)
    yield fd
    os.close(fd)


def with_changed(template: Path, pages: list[int]) -> bytes:
    ram = bytearray(template.read_bytes())
    for page in pages:
        ram[page * PAGE_BYTES + 17] ^= 1
    return bytes(ram)


def file_of(*, page: int, pages: int) -> bytes:
    """Return a file that has an index of `page` alone, with so many pages."""
    head = HEADER.pack(b"cubepg02", 1, pages).ljust(PAGE_BYTES, b"\0")
    return head + bytes(pages * PAGE_BYTES) + struct.pack("<II", page, 1)


def test_another_process_becomes_the_saved_one(template: Path, saved: int) -> None:
    # Runs of many lengths, one of them larger than what is copied at once, at both ends of the file.
    pages = [0, 1, 7, *range(1000, 3500), *range(4000, 4990, 3), PAGES - 1]
    with mapping(template) as first:
        first.change(*pages)
        with private_memory(first.pid, template) as memory:
            assert save_changed_pages(memory, saved) == len(pages)
        assert first.ram() == with_changed(template, pages)
    with mapping(template) as second:
        with private_memory(second.pid, template) as memory:
            apply_changed_pages(saved, memory)
        assert second.ram() == with_changed(template, pages)


def test_file_costs_the_pages_and_little_more(template: Path, saved: int) -> None:
    with mapping(template) as child, private_memory(child.pid, template) as memory:
        child.change(*range(0, PAGES, 2))
        pages = save_changed_pages(memory, saved)
    assert pages == PAGES // 2
    assert os.fstat(saved).st_blocks * 512 <= pages * PAGE_BYTES + 64 * 1024


def test_pages_that_were_only_read_are_not_changed(template: Path, saved: int) -> None:
    with mapping(template) as child, private_memory(child.pid, template) as memory:
        assert save_changed_pages(memory, saved) == 0
        child.change(3)
        assert memory.changed() == [PageRun(3, 1)]


def test_pages_that_were_put_back_are_not_kept(template: Path, saved: int) -> None:
    # At the ends of a run, inside of one, and a run of its own.
    pages, put_back = [*range(10, 20), 30, *range(2000, 4000)], [10, 14, 15, 30, 3999]
    with mapping(template) as first:
        first.change(*pages)
        first.change(*put_back)
        with private_memory(first.pid, template) as memory:
            assert sum(run.count for run in memory.changed()) == len(pages)
            assert save_changed_pages(memory, saved) == len(pages) - len(put_back)
    with mapping(template) as second:
        with private_memory(second.pid, template) as memory:
            apply_changed_pages(saved, memory)
        assert second.ram() == with_changed(template, sorted({*pages} - {*put_back}))


def test_applied_pages_are_the_process_s_own_and_not_the_template_s(template: Path, saved: int) -> None:
    before = template.read_bytes()
    with mapping(template) as child, private_memory(child.pid, template) as memory:
        child.change(3, 4, 9)
        save_changed_pages(memory, saved)
    with mapping(template) as child, private_memory(child.pid, template) as memory:
        apply_changed_pages(saved, memory)
        assert memory.changed() == [PageRun(3, 2), PageRun(9, 1)]
    assert template.read_bytes() == before


def test_machine_whose_memory_is_shared_is_no_clone(template: Path) -> None:
    with (
        mapping(template, "MAP_SHARED") as child,
        pytest.raises(VmmFailure, match="no clone"),
        private_memory(child.pid, template),
    ):
        pass


def test_process_that_has_ended_is_an_error(template: Path, saved: int) -> None:
    with mapping(template) as child, private_memory(child.pid, template) as memory:
        child.change(3)
        child.end()
        with pytest.raises(VmmFailure):
            save_changed_pages(memory, saved)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not a file of changed pages"),
        (b"x" * 8192, "not a file of changed pages"),
        (HEADER.pack(b"cubepg02", 2**63, 0), "ends early"),
        (HEADER.pack(b"cubepg02", 1, 1) + b"\0\0\0\0\1\0\0\0", "ends early"),
        (file_of(page=0, pages=2), "not that of its pages"),
        (file_of(page=0xFFFF, pages=1), "no memory at"),
    ],
    ids=["empty", "another", "endless index", "no pages", "another index", "page beyond the end"],
)
def test_file_that_is_none_is_refused(template: Path, saved: int, content: bytes, said: str) -> None:
    os.write(saved, content)
    with (
        mapping(template) as child,
        private_memory(child.pid, template) as memory,
        pytest.raises(VmmFailure, match=said),
    ):
        apply_changed_pages(saved, memory)
