"""Read-only file systems that are the same bytes whenever the same tree goes in."""

from __future__ import annotations

from pathlib import Path

from image_build import commands


def pack(tree: Path, destination: Path, *, compress: bool) -> None:
    """Pack `tree` as root-owned files, none of them newer than the build's fixed time (SOURCE_DATE_EPOCH).

    Uncompressed where the guest reads at boot: the disk is a file in the host's page cache that all sandboxes share,
    so space is cheap, and every page that a guest need not decompress is time saved on an emulated processor.
    """
    staging = destination.with_suffix(".partial")
    staging.unlink(missing_ok=True)
    how = ["-comp", "lz4"] if compress else ["-noI", "-noD", "-noF", "-noX"]
    commands.run(
        [
            "mksquashfs", tree, staging, *how,
            "-all-root", "-no-xattrs", "-no-exports", "-noappend", "-no-progress", "-quiet",
            # One thread: the order of blocks is then the order of files.
            "-processors", "1",
        ]
    )  # fmt: skip
    staging.replace(destination)
