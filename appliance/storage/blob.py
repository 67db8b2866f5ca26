"""A layer blob as the uncompressed stream it stands for: digests checked, every cap held while it flows."""

from __future__ import annotations

import hashlib
import io
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, cast

import zstandard

from appliance.domain.errors import ImageRejected

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

ZSTD_WINDOW_MAX_BYTES = 2**27
"""What `zstd -d` accepts unasked. A frame may claim gigabytes, which the decoder would have to hold in memory."""

RATIO_FLOOR_BYTES = 64 * 2**20
"""Below this a layer may compress as well as it likes: zeros in a small layer are no bomb."""

_CHUNK_BYTES = 256 * 2**10
_GZIP_MAGIC = b"\x1f\x8b"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_GZIP_WBITS = 31


@dataclass(frozen=True, slots=True)
class BlobRange:
    """Where the bytes of a layer are: a part of an open file, which is never read by its shared offset."""

    fd: int
    offset: int
    size: int

    def chunks(self) -> Iterator[bytes]:
        position, end = self.offset, self.offset + self.size
        while position < end:
            chunk = os.pread(self.fd, min(_CHUNK_BYTES, end - position), position)
            if not chunk:
                raise ImageRejected("truncated", f"a layer ends {end - position} bytes early")
            position += len(chunk)
            yield chunk


def check_digest(blob: BlobRange, digest: str) -> None:
    """Hash the stored bytes before anything parses them."""
    sha256 = hashlib.sha256()
    for chunk in blob.chunks():
        sha256.update(chunk)
    if f"sha256:{sha256.hexdigest()}" != digest:
        raise ImageRejected("digest-mismatch", f"a layer is not {digest}")


class UnpackedBytes:
    """Counts uncompressed bytes over all layers of an image."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.total = 0

    def add(self, count: int) -> None:
        self.total += count
        if self.total > self.limit:
            raise ImageRejected("unpacked-size", f"the layers unpack to more than {self.limit} bytes")


class LayerStream(io.RawIOBase):
    """Uncompressed bytes of one layer. `finish` must be called to know that they were the right ones."""

    def __init__(self, blob: BlobRange, *, diff_id: str, ratio: int, unpacked: UnpackedBytes) -> None:
        super().__init__()
        self._diff_id = diff_id
        self._allowed_bytes = max(RATIO_FLOOR_BYTES, ratio * blob.size)
        self._unpacked = unpacked
        self._hash = hashlib.sha256()
        self._count = 0
        self._chunks = _decompressed(blob)
        self._pending = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        if not self._pending:
            self._pending = memoryview(next(self._chunks, b""))
            self._account(self._pending)
        target = memoryview(buffer).cast("B")
        count = min(len(target), len(self._pending))
        target[:count] = self._pending[:count]
        self._pending = self._pending[count:]
        return count

    def buffered(self) -> BinaryIO:
        return io.BufferedReader(self, _CHUNK_BYTES)

    def finish(self) -> None:
        """Read what follows the archive, which counts like the rest, and check the digest of the whole."""
        for chunk in self._chunks:
            self._account(memoryview(chunk))
        if f"sha256:{self._hash.hexdigest()}" != self._diff_id:
            raise ImageRejected("diff-id-mismatch", f"an uncompressed layer is not {self._diff_id}")

    def _account(self, chunk: memoryview) -> None:
        self._count += len(chunk)
        if self._count > self._allowed_bytes:
            raise ImageRejected("compression-ratio", "a layer unpacks to far more than its size")
        self._unpacked.add(len(chunk))
        self._hash.update(chunk)


def _decompressed(blob: BlobRange) -> Iterator[bytes]:
    """Yield non-empty chunks of bounded size. The bytes say how they are compressed; media types have been wrong."""
    magic = os.pread(blob.fd, min(4, blob.size), blob.offset)
    if magic.startswith(_GZIP_MAGIC):
        return _gunzip(blob.chunks())
    if magic == _ZSTD_MAGIC:
        return _unzstd(blob.chunks())
    return blob.chunks()


def _gunzip(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Decompress all members: pigz and seekable layers write more than one."""
    decoder = zlib.decompressobj(_GZIP_WBITS)
    between_members = False
    for chunk in chunks:
        data = chunk
        while data:
            try:
                out = decoder.decompress(data, _CHUNK_BYTES)
            except zlib.error as error:
                raise ImageRejected("bad-compression", f"gzip: {error}") from error
            between_members = decoder.eof
            if out:
                yield out
            data = decoder.unused_data if decoder.eof else decoder.unconsumed_tail
            if decoder.eof:
                decoder = zlib.decompressobj(_GZIP_WBITS)
    if not between_members:
        raise ImageRejected("truncated", "a gzip layer ends early")


def _unzstd(chunks: Iterator[bytes]) -> Iterator[bytes]:
    decompressor = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_MAX_BYTES)
    reader = decompressor.stream_reader(cast(BinaryIO, _ChunkFile(chunks)), read_across_frames=True)
    while True:
        try:
            out = reader.read(_CHUNK_BYTES)
        except zstandard.ZstdError as error:
            rule = "zstd-window" if "memory" in str(error) else "bad-compression"
            raise ImageRejected(rule, f"zstd: {error}") from error
        if not out:
            return
        yield out


class _ChunkFile:
    """What the zstd binding reads from: chunks as they come, whatever size it asks for."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks

    def read(self, _size: int) -> bytes:
        return next(self._chunks, b"")
