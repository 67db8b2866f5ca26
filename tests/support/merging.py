"""The merge worker run in this process, and its output read by Python's tarfile."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from appliance.domain.errors import ImageRejected
from appliance.storage.base import ImageLimits
from appliance.storage.merge_job import LayerBlob, MergeJob, MergeReport
from appliance.storage.merge_worker import merge
from tests.support.oci_images import E, digest, tar_bytes


@dataclass(frozen=True)
class Seen:
    """What is visible under one name. `content` is the target of a symbolic link."""

    kind: str
    content: bytes = b""
    mode: int = 0o644
    shared_with: str = ""
    """Of a hard link: the name that has the content."""


@contextmanager
def job(
    layers: Sequence[bytes],
    *,
    stored: Sequence[bytes] | None = None,
    limits: ImageLimits = ImageLimits(),  # noqa: B008 - frozen
    digests: Sequence[str | None] | None = None,
    diff_ids: Sequence[str] | None = None,
) -> Iterator[MergeJob]:
    """Yield a job for uncompressed `layers` that are `stored` so, from files in memory."""
    blobs = list(stored) if stored is not None else list(layers)
    fds: list[int] = []
    try:
        made = []
        for number, blob in enumerate(blobs):
            fd = os.memfd_create("layer")
            fds.append(fd)
            os.write(fd, blob)
            made.append(
                LayerBlob(
                    fd=fd,
                    offset=0,
                    size=len(blob),
                    diff_id=diff_ids[number] if diff_ids is not None else digest(layers[number]),
                    digest=digests[number] if digests is not None else digest(blob),
                )
            )
        yield MergeJob(
            layers=tuple(made),
            unpacked_bytes=limits.unpacked_bytes,
            entries=limits.entries,
            compression_ratio=limits.compression_ratio,
            path_bytes=limits.path_bytes,
        )
    finally:
        for fd in fds:
            os.close(fd)


def merge_job(work: MergeJob) -> tuple[bytes, MergeReport]:
    output = io.BytesIO()
    reports: list[MergeReport] = []
    merge(work, output, reports.append)
    (report,) = reports
    return output.getvalue(), report


def merged(*layers: Sequence[E]) -> dict[str, Seen]:
    """Return what is seen in the end, by name; the root is `.`."""
    with job([tar_bytes(layer) for layer in layers]) as work:
        archive, _ = merge_job(work)
    return listing(archive)


def listing(archive: bytes) -> dict[str, Seen]:
    seen: dict[str, Seen] = {}
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for info in tar:
            assert info.name not in seen, f"{info.name} is emitted twice"
            parent = info.name.rpartition("/")[0]
            assert not parent or seen[parent].kind == "d", f"{info.name} comes before its directory"
            seen[info.name] = _seen(tar, info)
    return seen


def _seen(tar: tarfile.TarFile, info: tarfile.TarInfo) -> Seen:
    if info.isdir():
        return Seen("d", mode=info.mode)
    if info.issym():
        return Seen("l", info.linkname.encode(), info.mode)
    if info.isfifo():
        return Seen("p", mode=info.mode)
    file = tar.extractfile(info)
    assert file is not None
    return Seen("f", file.read(), info.mode, info.linkname if info.islnk() else "")


def rejected(*layers: Sequence[E], limits: ImageLimits = ImageLimits()) -> str:  # noqa: B008 - frozen
    """Return the rule for which the image of these layers is refused."""
    with job([tar_bytes(layer) for layer in layers], limits=limits) as work:
        return rejected_job(work)


def rejected_job(work: MergeJob) -> str:
    with pytest.raises(ImageRejected) as raised:
        merge_job(work)
    return raised.value.rule
