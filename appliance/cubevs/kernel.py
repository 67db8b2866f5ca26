"""The bpf(2) system call: what CubeVS needs of it once the programs are compiled.

Keys and values are bytes here; `maps.py` gives them their meaning. The compiler (BCC, with all of LLVM) is needed only
when the programs changed and runs in a process of its own, so that the node agent stays small.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Final

_SYS_BPF: Final = 321  # x86_64
_libc = ctypes.CDLL(None, use_errno=True)

_BPFFS_MAGIC: Final = 0xCAFE4A11


class _Command(IntEnum):
    MAP_CREATE = 0
    MAP_LOOKUP = 1
    MAP_UPDATE = 2
    MAP_DELETE = 3
    MAP_NEXT_KEY = 4
    OBJ_PIN = 6
    OBJ_GET = 7
    PROG_TEST_RUN = 10
    MAP_FD_BY_ID = 14
    INFO_BY_FD = 15


class MapType(IntEnum):
    HASH = 1
    ARRAY = 2
    PERCPU_ARRAY = 6
    LRU_HASH = 9
    LPM_TRIE = 11
    HASH_OF_MAPS = 13


NO_PREALLOC: Final = 1
_READ_ONLY: Final = 8


class _Create(ctypes.Structure):
    _fields_ = (
        ("map_type", ctypes.c_uint32),
        ("key_size", ctypes.c_uint32),
        ("value_size", ctypes.c_uint32),
        ("max_entries", ctypes.c_uint32),
        ("map_flags", ctypes.c_uint32),
        ("inner_map_fd", ctypes.c_uint32),
        ("numa_node", ctypes.c_uint32),
        ("map_name", ctypes.c_char * 16),
    )


class _Element(ctypes.Structure):
    _fields_ = (
        ("map_fd", ctypes.c_uint32),
        ("key", ctypes.c_uint64),
        ("value", ctypes.c_uint64),
        ("flags", ctypes.c_uint64),
    )


class _Object(ctypes.Structure):
    _fields_ = (("pathname", ctypes.c_uint64), ("bpf_fd", ctypes.c_uint32), ("file_flags", ctypes.c_uint32))


class _TestRun(ctypes.Structure):
    _fields_ = (
        ("prog_fd", ctypes.c_uint32),
        ("retval", ctypes.c_uint32),
        ("data_size_in", ctypes.c_uint32),
        ("data_size_out", ctypes.c_uint32),
        ("data_in", ctypes.c_uint64),
        ("data_out", ctypes.c_uint64),
        ("repeat", ctypes.c_uint32),
        ("duration", ctypes.c_uint32),
        ("ctx_size_in", ctypes.c_uint32),
        ("ctx_size_out", ctypes.c_uint32),
        ("ctx_in", ctypes.c_uint64),
        ("ctx_out", ctypes.c_uint64),
    )


class _Id(ctypes.Structure):
    _fields_ = (("id", ctypes.c_uint32), ("next_id", ctypes.c_uint32), ("open_flags", ctypes.c_uint32))


class _InfoByFd(ctypes.Structure):
    _fields_ = (("bpf_fd", ctypes.c_uint32), ("info_len", ctypes.c_uint32), ("info", ctypes.c_uint64))


class _MapInfo(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("key_size", ctypes.c_uint32),
        ("value_size", ctypes.c_uint32),
        ("max_entries", ctypes.c_uint32),
        ("map_flags", ctypes.c_uint32),
    )


def _bpf(command: _Command, attributes: ctypes.Structure) -> int:
    result = int(_libc.syscall(_SYS_BPF, command, ctypes.byref(attributes), ctypes.sizeof(attributes)))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"bpf {command.name.lower()}: {os.strerror(code)}")
    return result


@dataclass(frozen=True, slots=True)
class MapShape:
    """What a map is made of. Sizes in bytes."""

    type: MapType
    key_size: int
    value_size: int
    max_entries: int
    flags: int = 0


class BpfMap:
    """An open map. A closed or collected one gives its descriptor back; a pinned map lives on."""

    def __init__(self, fd: int, shape: MapShape) -> None:
        self._fd = fd
        self.shape = shape

    @classmethod
    def create(cls, shape: MapShape, *, name: str, inner: BpfMap | None = None) -> BpfMap:
        attributes = _Create(
            map_type=shape.type,
            key_size=shape.key_size,
            value_size=shape.value_size,
            max_entries=shape.max_entries,
            map_flags=shape.flags,
            inner_map_fd=inner.fd if inner else 0,
            map_name=name.encode()[:15],
        )
        return cls(_bpf(_Command.MAP_CREATE, attributes), shape)

    @classmethod
    def open(cls, path: Path, *, read_only: bool = False) -> BpfMap:
        """Open a pinned map with the shape it was made with; FileNotFoundError where there is none.

        To read takes no capability (since Linux 5.19), but permission on the pin and the way there.
        """
        return cls._of(open_pin(path, read_only=read_only))

    @classmethod
    def by_id(cls, id_: int) -> BpfMap:
        """Open a map by the id that a map of maps shows for it; FileNotFoundError once it is gone."""
        return cls._of(_bpf(_Command.MAP_FD_BY_ID, _Id(id=id_)))

    @classmethod
    def _of(cls, fd: int) -> BpfMap:
        info = _MapInfo()
        try:
            query = _InfoByFd(bpf_fd=fd, info_len=ctypes.sizeof(info), info=ctypes.addressof(info))
            _bpf(_Command.INFO_BY_FD, query)
            shape = MapShape(MapType(info.type), info.key_size, info.value_size, info.max_entries, info.map_flags)
        except BaseException:
            os.close(fd)
            raise
        return cls(fd, shape)

    @property
    def fd(self) -> int:
        return self._fd

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __del__(self) -> None:
        self.close()

    def pin(self, path: Path) -> None:
        pin(self._fd, path)

    def _element(self, key: bytes, value: int, flags: int = 0) -> tuple[_Element, ctypes.Array[ctypes.c_char]]:
        """Return the attributes, and the key's buffer, which must outlive the call."""
        buffer = ctypes.create_string_buffer(key, self.shape.key_size)
        return _Element(map_fd=self._fd, key=ctypes.addressof(buffer), value=value, flags=flags), buffer

    def get(self, key: bytes) -> bytes | None:
        """Return the value; of a per-CPU map all values in a row, each rounded up to 8 bytes."""
        per_cpu = self.shape.type is MapType.PERCPU_ARRAY
        size = -(-self.shape.value_size // 8) * 8 * possible_cpus() if per_cpu else self.shape.value_size
        value = ctypes.create_string_buffer(size)
        attributes, _key = self._element(key, ctypes.addressof(value))
        try:
            _bpf(_Command.MAP_LOOKUP, attributes)
        except FileNotFoundError:
            return None
        return value.raw

    def put(self, key: bytes, value: bytes) -> None:
        """Set the value of `key`. Programs see either the old value or the new one, never a mixture."""
        buffer = ctypes.create_string_buffer(value, self.shape.value_size)
        attributes, _key = self._element(key, ctypes.addressof(buffer))
        _bpf(_Command.MAP_UPDATE, attributes)

    def delete(self, key: bytes) -> None:
        """Remove `key`. An absent key is success."""
        attributes, _key = self._element(key, 0)
        try:
            _bpf(_Command.MAP_DELETE, attributes)
        except FileNotFoundError:
            return

    def keys(self) -> Iterator[bytes]:
        """Yield keys. One that is removed meanwhile may make the walk begin anew: expect repetitions, bounded here."""
        following = ctypes.create_string_buffer(self.shape.key_size)
        previous: ctypes.Array[ctypes.c_char] | None = None
        for _ in range(2 * self.shape.max_entries):
            attributes = _Element(
                map_fd=self._fd,
                key=ctypes.addressof(previous) if previous is not None else 0,
                value=ctypes.addressof(following),
            )
            try:
                _bpf(_Command.MAP_NEXT_KEY, attributes)
            except FileNotFoundError:
                return
            key = following.raw
            yield key
            previous = ctypes.create_string_buffer(key, self.shape.key_size)


def pin(fd: int, path: Path) -> None:
    name = ctypes.create_string_buffer(os.fsencode(path))
    _bpf(_Command.OBJ_PIN, _Object(pathname=ctypes.addressof(name), bpf_fd=fd))


def open_pin(path: Path, *, read_only: bool = False) -> int:
    """Return a descriptor, close-on-exec, of a pinned map or program."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    flags = _READ_ONLY if read_only else 0
    return _bpf(_Command.OBJ_GET, _Object(pathname=ctypes.addressof(name), file_flags=flags))


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a program did with one frame: its verdict (TC_ACT_*) and the frame as it left it."""

    verdict: int
    frame: bytes


def run_program(fd: int, frame: bytes, *, context: bytes) -> RunResult:
    """Run a loaded tc program once on `frame`; `context` is a `struct __sk_buff`. Needs no device to send on."""
    data_in = ctypes.create_string_buffer(frame, len(frame))
    data_out = ctypes.create_string_buffer(len(frame) + 256)
    context_in = ctypes.create_string_buffer(context, len(context))
    attributes = _TestRun(
        prog_fd=fd,
        data_size_in=len(frame),
        data_size_out=len(data_out),
        data_in=ctypes.addressof(data_in),
        data_out=ctypes.addressof(data_out),
        repeat=1,
        ctx_size_in=len(context),
        ctx_in=ctypes.addressof(context_in),
    )
    _bpf(_Command.PROG_TEST_RUN, attributes)
    return RunResult(verdict=attributes.retval, frame=data_out.raw[: attributes.data_size_out])


def possible_cpus() -> int:
    """Return how many values a per-CPU map has: CPUs that could be there, not those that are."""
    ranges = Path("/sys/devices/system/cpu/possible").read_text().strip().split(",")
    return int(ranges[-1].rpartition("-")[2]) + 1


def is_bpffs(path: Path) -> bool:
    """Is `path` on a BPF file system? False where it does not exist."""
    buffer = ctypes.create_string_buffer(256)  # larger than any struct statfs
    if _libc.statfs(os.fsencode(path), buffer) != 0:
        if ctypes.get_errno() in (errno.ENOENT, errno.ENOTDIR):
            return False
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(path))
    return int.from_bytes(buffer.raw[:8], "little") == _BPFFS_MAGIC
