"""The image `base`: Debian with Python, Node and the tools that an agent expects, and the user `user`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from image_build import layer_tar, rootfs
from image_build.oci import RunConfig
from image_build.progress import say

NAME = "base"

RUN = RunConfig(
    env={
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
    },
    user="user",
)


def build(packages: Sequence[Path], names: Sequence[str], definition: Path, layer: Path, scratch: Path) -> None:
    """Write the layer: the packages, `definition`/overlay over them, and what `definition`/finish.sh does to both."""
    raw = scratch / "base.tar"
    say(f"base: installing {len(packages)} packages")
    rootfs.bootstrap(packages, names, raw, overlay=definition / "overlay", finish=definition / "finish.sh")
    say("base: writing the layer")
    layer_tar.normalise(raw, layer, image=NAME)
