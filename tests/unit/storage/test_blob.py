"""Layer blobs: every compression gives the same bytes, and what is no such thing is refused."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest
import zstandard

from appliance.domain.errors import ImageRejected
from appliance.storage import blob as blob_module
from appliance.storage.base import ImageLimits
from appliance.storage.blob import ZSTD_WINDOW_MAX_BYTES, BlobRange, LayerStream, UnpackedBytes
from tests.support.merging import job, listing, merge_job, rejected_job
from tests.support.oci_images import E, digest, tar_bytes

LAYER = tar_bytes([E("f", data=os.urandom(600_000)), E("g", data=bytes(600_000))])
OTHER = tar_bytes([E("h")])


def zstd(data: bytes, **options: int) -> bytes:
    parameters = zstandard.ZstdCompressionParameters(**options)
    return zstandard.ZstdCompressor(compression_params=parameters).compress(data)


def members(data: bytes) -> bytes:
    return b"".join(gzip.compress(data[i : i + 100_000]) for i in range(0, len(data), 100_000))


def frames(data: bytes) -> bytes:
    return b"".join(zstd(data[i : i + 100_000]) for i in range(0, len(data), 100_000))


@pytest.mark.parametrize("compress", [bytes, gzip.compress, members, zstd, frames])
def test_every_compression_gives_the_same_content(compress: object) -> None:
    assert callable(compress)
    with job([LAYER], stored=[compress(LAYER)]) as work:
        archive, report = merge_job(work)
    assert set(listing(archive)) == {".", "f", "g"}
    assert report.unpacked_bytes == len(LAYER)


def test_a_layer_may_be_a_part_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "archive"
    file.write_bytes(b"before" + LAYER + b"after")
    with file.open("rb") as opened:
        stream = LayerStream(
            BlobRange(opened.fileno(), len(b"before"), len(LAYER)),
            diff_id=digest(LAYER),
            ratio=1,
            unpacked=UnpackedBytes(2**30),
        )
        assert stream.buffered().read() == LAYER
        stream.finish()


def test_a_zstd_window_larger_than_the_limit_is_refused() -> None:
    huge = zstd(LAYER * 2, window_log=ZSTD_WINDOW_MAX_BYTES.bit_length(), enable_ldm=1)
    # A frame whose content is smaller than the window says so and needs no window: take the size out.
    unsized = zstandard.ZstdCompressor(
        compression_params=zstandard.ZstdCompressionParameters(window_log=28, enable_ldm=1, write_content_size=0)
    ).compressobj()
    blob = unsized.compress(LAYER) + unsized.flush()
    with job([LAYER], stored=[blob]) as work:
        assert rejected_job(work) == "zstd-window"
    assert huge  # The sized frame is harmless and accepted.
    with job([LAYER * 2], stored=[huge]) as work:
        merge_job(work)


def test_the_digest_of_the_stored_bytes_is_checked_before_they_are_parsed() -> None:
    with job([LAYER], stored=[b"not even an archive"], digests=[digest(LAYER)]) as work:
        assert rejected_job(work) == "digest-mismatch"


def test_layers_without_a_digest_are_held_to_their_diff_id() -> None:
    with job([LAYER], stored=[LAYER], digests=[None], diff_ids=[digest(OTHER)]) as work:
        assert rejected_job(work) == "diff-id-mismatch"


def test_bytes_after_the_archive_count_and_are_hashed() -> None:
    padded = LAYER + bytes(10_000)
    with job([padded]) as work:
        _, report = merge_job(work)
    assert report.unpacked_bytes == len(padded)
    with job([padded], limits=ImageLimits(unpacked_bytes=len(LAYER) + 5000)) as work:
        assert rejected_job(work) == "unpacked-size"


def test_noise_that_claims_to_be_zstd_is_refused() -> None:
    noise = b"\x28\xb5\x2f\xfd" + os.urandom(1000)
    with job([noise]) as work:
        assert rejected_job(work) in ("bad-compression", "zstd-window", "truncated")


def test_a_file_that_shrank_is_truncated() -> None:
    with job([LAYER], digests=[None]) as work:
        os.ftruncate(work.layers[0].fd, 1000)
        assert rejected_job(work) == "truncated"


def test_a_bomb_is_stopped_at_its_first_bytes_over_the_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blob_module, "RATIO_FLOOR_BYTES", 2**20)
    bomb = gzip.compress(bytes(50 * 2**20))
    unpacked = UnpackedBytes(2**40)
    with job([b""], stored=[bomb]) as work:
        stream = LayerStream(BlobRange(work.layers[0].fd, 0, len(bomb)), diff_id="", ratio=200, unpacked=unpacked)
        with pytest.raises(ImageRejected) as raised:
            stream.finish()
    assert raised.value.rule == "compression-ratio"
    assert unpacked.total <= max(2**20, 200 * len(bomb))
