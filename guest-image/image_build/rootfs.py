"""A Debian root file system out of locked packages, by mmdebstrap."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from image_build import commands
from image_build.hashing import sha256_file

_SUITE = "bookworm"


def bootstrap(packages: Sequence[Path], names: Sequence[str], tarball: Path, *, overlay: Path, finish: Path) -> None:
    """Install `packages` into an empty root, lay `overlay` over it, run `finish` on it, and write it as a tar.

    mmdebstrap gets an archive of exactly the locked packages, so its resolver has nothing to choose.
    """
    archive = tarball.parent / "archive"
    _make_archive(packages, archive)
    commands.run(
        [
            "mmdebstrap",
            "--quiet",
            "--mode=root",
            "--format=tar",
            # `essential` and not `apt`: apt is in the list, like everything else.
            "--variant=essential",
            "--architectures=amd64",
            f"--include={','.join(names)}",
            "--skip=output/dev",
            # Root's, with the usual permissions, whatever the checkout's are.
            f'--customize-hook=cp --recursive --no-preserve=all {shlex.quote(str(overlay))}/. "$1"',
            f'--customize-hook={shlex.quote(str(finish))} "$1"',
            _SUITE,
            tarball,
            f"deb [trusted=yes] copy://{archive} ./",
        ]
    )


def _make_archive(packages: Sequence[Path], archive: Path) -> None:
    """Make a flat apt archive: the packages under any name, and their control files as `Packages`."""
    archive.mkdir()
    stanzas = []
    for package in packages:
        os.link(package, archive / package.name)
        control = commands.run(["dpkg-deb", "--field", package]).rstrip("\n")
        stanzas.append(
            f"{control}\nFilename: ./{package.name}\nSize: {package.stat().st_size}\nSHA256: {sha256_file(package)}\n"
        )
    index = archive / "Packages"
    index.write_text("\n".join(stanzas))
    # mmdebstrap finds the essential packages among those of its suite: the archive has to say that it is that one.
    (archive / "Release").write_text(
        f"Suite: {_SUITE}\nCodename: {_SUITE}\nSHA256:\n {sha256_file(index)} {index.stat().st_size} Packages\n"
    )
