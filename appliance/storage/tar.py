"""A strict, streaming reader and writer of tar archives, for archives that a stranger made.

Python's `tarfile` keeps every member in memory, trusts the sizes of extended headers and guesses where archives are
ambiguous. Here each header is bounded, what two tools could read differently is refused, and only what an OCI layer
may hold is understood: ustar, GNU long names and pax headers.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import BinaryIO

from appliance.domain.errors import ImageRejected

BLOCK_BYTES = 512
END_OF_ARCHIVE = bytes(2 * BLOCK_BYTES)

EXTENDED_HEADER_MAX_BYTES = 2**20
"""Room for every xattr Linux allows on a file (64 KiB each) in number enough, and little enough to hold in memory."""

_COPY_BYTES = 2**20
_XATTR_PREFIX = b"SCHILY.xattr."
_PAX_NUMBERS = (b"size", b"uid", b"gid")
_EIGHT_OCTAL_DIGITS = 0o7777777 + 1
_TWELVE_OCTAL_DIGITS = 0o77777777777 + 1


class Kind(Enum):
    """What an entry is, by its ustar type flag. Other types exist and are refused."""

    FILE = b"0"
    HARD_LINK = b"1"
    SYMBOLIC_LINK = b"2"
    CHARACTER_DEVICE = b"3"
    BLOCK_DEVICE = b"4"
    DIRECTORY = b"5"
    FIFO = b"6"


@dataclass(frozen=True, slots=True)
class Member:
    """One entry as the archive states it; nothing about it has been judged."""

    name: bytes
    kind: Kind
    mode: int
    uid: int
    gid: int
    mtime: int
    """Seconds since the epoch; may be negative."""
    size: int = 0
    """Bytes of content that follow; 0 unless `kind` is FILE."""
    link_target: bytes = b""
    xattrs: Mapping[bytes, bytes] = field(default_factory=dict)


class TarReader:
    """Iterates over the members of a stream. Raises `ImageRejected` on anything irregular.

    `max_bytes` bounds the size one member may claim, so that a header alone cannot ask for an exabyte.
    """

    def __init__(self, stream: BinaryIO, *, max_bytes: int) -> None:
        self._stream = stream
        self._max_bytes = max_bytes
        self._unread = 0
        self._padding = 0

    def __iter__(self) -> Iterator[Member]:
        extensions = _Extensions()
        while (header := self._next_header()) is not None:
            flag = header[156:157]
            if flag in _METADATA_FLAGS:
                extensions.add(flag, self._read_extension(header))
                continue
            yield self._member(header, extensions)
            extensions = _Extensions()
        if not extensions.empty:
            raise ImageRejected("truncated", "the archive ends after an extended header")

    def copy_content(self, write: Callable[[bytes], object]) -> None:
        """Pass the content of the member that was yielded last to `write`, in chunks."""
        while self._unread:
            chunk = self._stream.read(min(self._unread, _COPY_BYTES))
            if not chunk:
                raise ImageRejected("truncated", "the archive ends inside an entry")
            self._unread -= len(chunk)
            write(chunk)

    def skip_content(self) -> None:
        """Seek past the content of the member that was yielded last, in a stream that can."""
        self._stream.seek(self._unread, os.SEEK_CUR)
        self._unread = 0

    def _next_header(self) -> bytes | None:
        self.copy_content(_discard)
        self._read_exactly(self._padding)
        self._padding = 0
        header = self._stream.read(BLOCK_BYTES)
        # Archives without the closing zero blocks are read to their end, as every tool does; the digest of the
        # uncompressed layer tells a cut archive from a frugal one.
        if not header or not any(header):
            return None
        if len(header) < BLOCK_BYTES:
            raise ImageRejected("truncated", "the archive ends inside a header")
        if not _checksum_matches(header):
            raise ImageRejected("bad-header", "header checksum does not match")
        return header

    def _read_extension(self, header: bytes) -> bytes:
        size = _number(header[124:136], "size")
        if not 0 <= size <= EXTENDED_HEADER_MAX_BYTES:
            raise ImageRejected("header-too-large", f"an extended header claims {size} bytes")
        body = self._read_exactly(size)
        self._read_exactly(-size % BLOCK_BYTES)
        return body

    def _read_exactly(self, size: int) -> bytes:
        data = self._stream.read(size) if size else b""
        if len(data) < size:
            raise ImageRejected("truncated", "the archive ends inside an entry")
        return data

    def _member(self, header: bytes, extensions: _Extensions) -> Member:
        kind = _kind(header)
        size = extensions.number(b"size", _number(header[124:136], "size"))
        if kind is not Kind.FILE and size:
            # Some tools would skip that many bytes here and others none: the rest would mean two different things.
            raise ImageRejected(
                "ambiguous-size", f"an entry of type {kind.name.lower()} claims {size} bytes of content"
            )
        if not 0 <= size <= self._max_bytes:
            raise ImageRejected("unpacked-size", f"an entry claims {size} bytes")
        self._unread, self._padding = size, -size % BLOCK_BYTES
        return Member(
            name=extensions.path or _ustar_name(header),
            kind=kind,
            mode=_number(header[100:108], "mode") & 0o7777,
            uid=extensions.number(b"uid", _number(header[108:116], "uid")),
            gid=extensions.number(b"gid", _number(header[116:124], "gid")),
            mtime=extensions.mtime(_number(header[136:148], "mtime")),
            size=size,
            link_target=extensions.link_target or _text(header[157:257]),
            xattrs=extensions.xattrs,
        )


class _Extensions:
    """What extended headers say about the member that follows them."""

    def __init__(self) -> None:
        self.path = b""
        self.link_target = b""
        self.xattrs: dict[bytes, bytes] = {}
        self._records: dict[bytes, bytes] = {}
        self.empty = True

    def add(self, flag: bytes, body: bytes) -> None:
        if flag == b"g":
            return  # Global headers carry comments; container tools ignore them, and so a layer means the same here.
        self.empty = False
        if flag == b"L":
            self.path = body.rstrip(b"\0")
        elif flag == b"K":
            self.link_target = body.rstrip(b"\0")
        else:
            self._add_pax(body)

    def _add_pax(self, body: bytes) -> None:
        for key, value in _pax_records(body):
            if key == b"path":
                self.path = value
            elif key == b"linkpath":
                self.link_target = value
            elif key.startswith(b"GNU.sparse."):
                raise ImageRejected("sparse-entry", "sparse files are not part of OCI layers")
            elif key.startswith(_XATTR_PREFIX):
                self.xattrs[key.removeprefix(_XATTR_PREFIX)] = value
            else:
                self._records[key] = value

    def number(self, key: bytes, otherwise: int) -> int:
        value = self._records.get(key)
        if value is None:
            return otherwise
        if not value.isdigit() or len(value) > 20:
            raise ImageRejected("bad-header", f"pax record {key.decode()} is no number")
        return int(value)

    def mtime(self, otherwise: int) -> int:
        """Whole seconds: squashfs stores no fractions."""
        value = self._records.get(b"mtime")
        if value is None:
            return otherwise
        seconds = value.partition(b".")[0]
        if not seconds.removeprefix(b"-").isdigit() or len(seconds) > 20:
            raise ImageRejected("bad-header", "pax record mtime is no number")
        return int(seconds)


_METADATA_FLAGS = (b"x", b"g", b"L", b"K")


def _pax_records(body: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield key and value of `<length> <key>=<value>\\n` records, where the length counts the whole record."""
    position = 0
    while position < len(body):
        space = body.find(b" ", position, position + 8)
        digits = body[position:space] if space > 0 else b""
        if not digits.isdigit():
            raise ImageRejected("bad-header", "a pax record has no length")
        end = position + int(digits)
        key, equals, value = body[space + 1 : end - 1].partition(b"=")
        if not equals or not key or end > len(body) or body[end - 1 : end] != b"\n":
            raise ImageRejected("bad-header", "a pax record is malformed")
        yield key, value
        position = end


def _kind(header: bytes) -> Kind:
    flag = header[156:157]
    if flag in (b"\0", b"0", b"7"):
        # Before POSIX a directory was a file whose name ends in a slash.
        return Kind.DIRECTORY if flag == b"\0" and _ustar_name(header).endswith(b"/") else Kind.FILE
    if flag == b"S":
        raise ImageRejected("sparse-entry", "sparse files are not part of OCI layers")
    try:
        return Kind(flag)
    except ValueError:
        raise ImageRejected("entry-type", f"an entry has type {flag!r}") from None


def _ustar_name(header: bytes) -> bytes:
    name = _text(header[0:100])
    # The prefix is POSIX; GNU tar keeps other things in these bytes and has its own magic.
    prefix = _text(header[345:500]) if header[257:263] == b"ustar\0" else b""
    return prefix + b"/" + name if prefix else name


def _text(field_bytes: bytes) -> bytes:
    return field_bytes.partition(b"\0")[0]


def _number(field_bytes: bytes, what: str) -> int:
    """Return an octal number, or a base-256 one, which GNU tar marks by the first bit."""
    if field_bytes[0] & 0x80:
        negative = field_bytes[0] == 0xFF
        value = int.from_bytes(field_bytes, "big", signed=negative)
        return value if negative else value - (0x80 << 8 * (len(field_bytes) - 1))
    digits = _text(field_bytes).strip(b" ")
    if not digits:
        return 0
    if digits.translate(None, b"01234567"):
        raise ImageRejected("bad-header", f"field {what} is no number")
    return int(digits, 8)


def _checksum_matches(header: bytes) -> bool:
    stated = _number(header[148:156], "checksum")
    counted = sum(header) - sum(header[148:156]) + 8 * ord(" ")
    if stated == counted:
        return True
    # Tools that summed signed characters differ from POSIX in every byte above 127.
    return stated == counted - 256 * sum(1 for byte in header if byte & 0x80)


def _discard(_: bytes) -> None:
    pass


def encode(member: Member) -> bytes:
    """Return the header blocks of `member`. Its content follows, padded with `padding(member.size)`."""
    records: list[bytes] = []
    if len(member.name) > 100 or not member.name.isascii():
        records.append(_pax_record(b"path", member.name))
    if len(member.link_target) > 100 or not member.link_target.isascii():
        records.append(_pax_record(b"linkpath", member.link_target))
    for key, value, limit in zip(
        _PAX_NUMBERS,
        (member.size, member.uid, member.gid),
        (_TWELVE_OCTAL_DIGITS, _EIGHT_OCTAL_DIGITS, _EIGHT_OCTAL_DIGITS),
        strict=True,
    ):
        if value >= limit:
            records.append(_pax_record(key, b"%d" % value))
    records += [_pax_record(_XATTR_PREFIX + name, value) for name, value in sorted(member.xattrs.items())]
    header = _ustar_header(member)
    if not records:
        return header
    body = b"".join(records)
    extension = Member(b"pax", Kind.FILE, mode=0, uid=0, gid=0, mtime=0, size=len(body))
    return _ustar_header(extension, flag=b"x") + body + padding(len(body)) + header


def padding(size: int) -> bytes:
    """Return the zeros that fill the last block of `size` bytes of content."""
    return bytes(-size % BLOCK_BYTES)


def _ustar_header(member: Member, flag: bytes | None = None) -> bytes:
    header = bytearray(BLOCK_BYTES)
    header[0:100] = member.name[:100].ljust(100, b"\0")
    header[100:108] = b"%07o\0" % member.mode
    header[108:116] = b"%07o\0" % (member.uid if member.uid < _EIGHT_OCTAL_DIGITS else 0)
    header[116:124] = b"%07o\0" % (member.gid if member.gid < _EIGHT_OCTAL_DIGITS else 0)
    header[124:136] = b"%011o\0" % (member.size if member.size < _TWELVE_OCTAL_DIGITS else 0)
    header[136:148] = b"%011o\0" % member.mtime
    header[148:156] = b" " * 8
    header[156:157] = flag or member.kind.value
    header[157:257] = member.link_target[:100].ljust(100, b"\0")
    header[257:265] = b"ustar\x0000"
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def _pax_record(key: bytes, value: bytes) -> bytes:
    rest = len(key) + len(value) + 3  # the space, the equals sign and the newline
    length = rest + len(str(rest))
    length = rest + len(str(length))
    return b"%d %s=%s\n" % (length, key, value)
