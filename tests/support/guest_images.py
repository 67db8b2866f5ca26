"""Images as small as they get, one for each thing of an image that the guest must not rely on.

`debian`   glibc, a shell, /etc as Debian lays it out
`alpine`   no glibc: one static busybox and links to it, /etc as Alpine lays it out
`bare`     one static program and nothing else: no shell, no libc, no /etc, no directory to mount anything on
`crooked`  where /run, /tmp and /etc/resolv.conf are links, as an image may have them by accident or by intent
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from image_build import apt, layer_tar, oci, pins, squashfs
from image_build.places import Places

PLACES = Places.of_checkout(Path(__file__).parents[2] / "guest-image")

_DEBIAN_PACKAGES = (
    "base-files", "base-passwd", "coreutils", "dash", "libacl1", "libattr1", "libc6", "libgcc-s1", "libgmp10",
    "libpcre2-8-0", "libselinux1",
)  # fmt: skip
_APPLETS = ("cat", "grep", "id", "kill", "ls", "sh", "sleep", "uname")
_GREETING = 'int puts(const char *); int main(void) { puts("hello from nowhere"); return 0; }\n'


@dataclass(frozen=True)
class TinyImage:
    name: str
    make: Callable[[Path], None]
    """Puts the image's files below a directory."""
    command: tuple[str, ...]
    """Something to run in it."""
    says: str
    """What that prints."""

    def layer(self, directory: Path) -> Path:
        """Return the image as one squashfs layer, made in `directory`."""
        tree, layer = directory / f"{self.name}.tree", directory / f"{self.name}.squashfs"
        self.make(tree)
        squashfs.pack(tree, layer, compress=False)
        return layer

    def write_layout(self, directory: Path) -> str:
        """Write the image as an OCI layout into `directory`/<name> and return its digest."""
        tree, tar = directory / f"{self.name}.tree", directory / f"{self.name}.tar"
        self.make(tree)
        layer_tar.pack_added(tree, tar, present=frozenset(), image=self.name)
        run = oci.RunConfig(env={"PATH": "/usr/bin:/bin"}, user="root")
        return oci.write_layout(directory / self.name, layers=[oci.layer_file(tar, self.name)], run=run, tag="latest")


def _debian(tree: Path) -> None:
    tree.mkdir()
    locked = {deb.name: deb for deb in pins.read_debs(PLACES.lock("base"))}
    packages = apt.PackageCache(PLACES.cache).fetch(locked[name] for name in _DEBIAN_PACKAGES)
    apt.unpack(packages, tree)
    (tree / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n")
    (tree / "etc/group").write_text("root:x:0:\nuser:x:1000:\n")


def _alpine(tree: Path) -> None:
    for directory in ("bin", "etc", "home", "lib", "root", "sbin", "tmp", "usr/bin", "var"):
        (tree / directory).mkdir(parents=True)
    (tree / "bin/busybox").write_bytes(_busybox(tree.parent))
    (tree / "bin/busybox").chmod(0o755)
    for applet in _APPLETS:
        (tree / "bin" / applet).symlink_to("/bin/busybox")
    (tree / "var/run").symlink_to("../run")
    (tree / "etc/alpine-release").write_text("3.22.1\n")
    (tree / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (tree / "etc/group").write_text("root:x:0:\n")


def _bare(tree: Path) -> None:
    tree.mkdir()
    source = tree.parent / "hello.c"
    source.write_text(_GREETING)
    subprocess.run(["gcc", "-static", "-Os", "-s", "-o", tree / "hello", source], check=True, timeout=60)


def _crooked(tree: Path) -> None:
    _alpine(tree)
    (tree / "run").symlink_to("/etc")
    (tree / "tmp").rmdir()
    (tree / "tmp").symlink_to("/nowhere/tmp")
    (tree / "etc/resolv.conf").symlink_to("/nowhere/resolv.conf")


def _busybox(scratch: Path) -> bytes:
    unpacked = scratch / "busybox"
    apt.unpack(apt.PackageCache(PLACES.cache).fetch(pins.read_debs(PLACES.lock("tests"))), unpacked)
    return (unpacked / "bin/busybox").read_bytes()


IMAGES: Mapping[str, TinyImage] = MappingProxyType(
    {
        image.name: image
        for image in (
            TinyImage("debian", _debian, ("/bin/sh", "-c", "cat /etc/debian_version"), "12."),
            TinyImage("alpine", _alpine, ("/bin/sh", "-c", "cat /etc/alpine-release"), "3.22.1"),
            TinyImage("bare", _bare, ("/hello",), "hello from nowhere"),
            TinyImage("crooked", _crooked, ("/bin/sh", "-c", "ls -d /etc/cube/agent"), "/etc/cube/agent"),
        )
    }
)
