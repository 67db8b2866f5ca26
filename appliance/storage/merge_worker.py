"""The process that parses what strangers made: a `MergeJob` on stdin, the merged tar stream on stdout.

It is a process of its own, started without privileges and under resource limits (see `confinement.py`), because a
decompressor or parser that is fooled must not be inside Cubelet, and because the work would hold its event loop. It
opens nothing: the blobs are inherited as descriptors. Its reports are lines of JSON on stderr.

Layers are read twice. The first pass reads names only and decides; the second emits what is seen in the end. So no
layer is ever unpacked to a file, and memory grows with the number of names, not with bytes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import BinaryIO

from appliance.domain.errors import ImageRejected
from appliance.storage.admission import Entry, Path, Role, admit
from appliance.storage.blob import BlobRange, LayerStream, UnpackedBytes, check_digest
from appliance.storage.merge import MergedTree
from appliance.storage.merge_job import LayerBlob, MergeJob, MergeReport
from appliance.storage.tar import END_OF_ARCHIVE, Kind, Member, TarReader, encode, padding

EXIT_REJECTED = 3
"""The report says why."""

EXIT_READER_GONE = 4
"""Whoever read stdout died first; that failure is the cause."""

_DETAIL_MAX_LENGTH = 1000
"""Details quote names, and a name may have 4096 bytes."""

_IMPLICIT_DIRECTORY = Member(b"", Kind.DIRECTORY, mode=0o755, uid=0, gid=0, mtime=0)


def merge(job: MergeJob, output: BinaryIO, decided: Callable[[MergeReport], object]) -> None:
    """Write the merged archive of the job's layers to `output`, after calling `decided`. Raises `ImageRejected`."""
    for layer in job.layers:
        if layer.digest is not None:
            check_digest(_range(layer), layer.digest)
    tree, report = _decide(job)
    decided(report)
    _emit(job, tree, output.write)


def _decide(job: MergeJob) -> tuple[MergedTree, MergeReport]:
    tree = MergedTree()
    unpacked = UnpackedBytes(job.unpacked_bytes)
    count = 0
    newest_mtime = 0
    for layer in job.layers:
        stream, reader = _open(job, layer, unpacked)
        for entry in _entries(job, reader):
            count += 1
            if count > job.entries:
                raise ImageRejected("entries", f"the layers have more than {job.entries} entries")
            if entry.role is Role.CONTENT:
                newest_mtime = max(newest_mtime, entry.member.mtime)
            tree.add(entry)
        stream.finish()
        tree.end_layer()
    return tree, MergeReport(entries=count, unpacked_bytes=unpacked.total, newest_mtime=newest_mtime)


def _emit(job: MergeJob, tree: MergedTree, write: Callable[[bytes], object]) -> None:
    for path, member in tree.directories():
        write(encode(replace(member or _IMPLICIT_DIRECTORY, name=_encoded(path))))
    unpacked = UnpackedBytes(job.unpacked_bytes)
    for number, layer in enumerate(job.layers):
        stream, reader = _open(job, layer, unpacked)
        for index, entry in enumerate(_entries(job, reader)):
            names = tree.names(number, index, entry)
            if not names:
                continue
            write(encode(replace(entry.member, name=_encoded(names[0]))))
            reader.copy_content(write)
            write(padding(entry.member.size))
            for name in names[1:]:
                write(encode(_link(entry.member, name, names[0])))
        stream.finish()
    write(END_OF_ARCHIVE)


def _open(job: MergeJob, layer: LayerBlob, unpacked: UnpackedBytes) -> tuple[LayerStream, TarReader]:
    stream = LayerStream(_range(layer), diff_id=layer.diff_id, ratio=job.compression_ratio, unpacked=unpacked)
    return stream, TarReader(stream.buffered(), max_bytes=job.unpacked_bytes)


def _entries(job: MergeJob, reader: TarReader) -> Iterator[Entry]:
    return (admit(member, path_max_bytes=job.path_bytes) for member in reader)


def _range(layer: LayerBlob) -> BlobRange:
    return BlobRange(layer.fd, layer.offset, layer.size)


def _encoded(path: Path) -> bytes:
    return "/".join(path).encode() or b"./"


def _link(member: Member, name: Path, target: Path) -> Member:
    return replace(member, kind=Kind.HARD_LINK, name=_encoded(name), link_target=_encoded(target), size=0, xattrs={})


def _detail(rejection: ImageRejected) -> str:
    """Return the message without the words that the reader of the report will put before it again."""
    return rejection.message.removeprefix(ImageRejected(rejection.rule, "").message)[:_DETAIL_MAX_LENGTH]


def main() -> int:
    try:
        job = MergeJob.from_json(sys.stdin.buffer.read())
        merge(job, sys.stdout.buffer, _say)
        sys.stdout.buffer.flush()
    except ImageRejected as rejection:
        _say(MergeReport(rule=rejection.rule, detail=_detail(rejection)))
        return EXIT_REJECTED
    except MemoryError:
        _say(MergeReport(rule="memory", detail="the names of its entries need too much memory"))
        return EXIT_REJECTED
    except BrokenPipeError:
        # At once: the interpreter would try to flush stdout on its way out, and exit with another status.
        os._exit(EXIT_READER_GONE)
    return 0


def _say(report: MergeReport) -> None:
    sys.stderr.buffer.write(report.to_json() + b"\n")
    sys.stderr.buffer.flush()


if __name__ == "__main__":
    sys.exit(main())
