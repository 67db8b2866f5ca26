from __future__ import annotations

import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from image_build import cpio


@pytest.mark.skipif(shutil.which("cpio") is None, reason="cpio is not installed; the guest's boot shows the same")
def test_cpio_reads_what_was_written(tmp_path: Path) -> None:
    archive = cpio.archive(
        [
            cpio.file("init", b"#!program", executable=True),
            cpio.directory("modules"),
            cpio.file("modules/odd", b"12345"),
        ]
    )
    subprocess.run(["cpio", "--extract", "--quiet"], input=archive, cwd=tmp_path, check=True)
    assert (tmp_path / "init").read_bytes() == b"#!program"
    assert (tmp_path / "init").stat().st_mode == stat.S_IFREG | 0o755
    assert (tmp_path / "modules").is_dir()
    assert (tmp_path / "modules/odd").read_bytes() == b"12345"


def test_members_begin_on_four_bytes_and_carry_no_time() -> None:
    archive = cpio.archive([cpio.file("a", b"1"), cpio.file("bc", b"")])
    offsets = [index for index in range(len(archive)) if archive.startswith(b"070701", index)]
    assert len(offsets) == 3
    assert all(offset % 4 == 0 for offset in offsets)
    times = [archive[offset + 6 + 8 * 5 : offset + 6 + 8 * 6] for offset in offsets]
    assert times == [b"00000000"] * 3
