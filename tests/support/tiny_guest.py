"""The smallest guest that can be asked something: Debian's cloud kernel and a busybox script, no agent, no network.

It reads a word from the first sector of its first disk, again and again. Each new word is added to a list that lives
in its RAM and is then printed on its console, so a test can write to a guest's RAM and read it back. Some words make
it do something else, see `WORDS`.
"""

from __future__ import annotations

import asyncio
import io
import os
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "cube"
CMDLINE = "console=ttyS0 panic=-1 quiet mitigations=off"
DISK_BYTES = 64 * 1024
READY = "words:"

WORDS = ("panic", "poweroff", "flood", "second-disk", "write-second")
"""What makes the guest crash, switch itself off, print without end, or use its second disk."""

_MODULES = ("virtio/virtio_ring", "virtio/virtio", "virtio/virtio_mmio", "block/virtio_blk")
_INIT = b"""#!/bin/busybox sh
busybox=/bin/busybox
$busybox mount -t devtmpfs dev /dev
$busybox mount -t proc proc /proc
for module in virtio_ring virtio virtio_mmio virtio_blk; do $busybox insmod /modules/$module.ko; done
words= last=none
while :; do
    word=$($busybox dd if=/dev/vda bs=512 count=1 iflag=direct 2>/dev/null | $busybox head -n 1)
    if [ "$word" != "$last" ]; then
        last=$word words="$words $word"
        echo "words:$words."
        case $word in
            panic) echo c > /proc/sysrq-trigger ;;
            poweroff) $busybox poweroff -f ;;
            flood) $busybox yes 0123456789012345678901234567890123456789 ;;
            second-disk) $busybox head -n 1 /dev/vdb ;;
            write-second) echo "written-to-it" | $busybox dd of=/dev/vdb conv=notrunc,fsync 2>/dev/null; echo done ;;
        esac
    fi
    $busybox sleep 0.05
done
"""


@dataclass(frozen=True, slots=True)
class TinyGuest:
    kernel: Path
    initramfs: Path


def prepare() -> TinyGuest:
    """Return the guest's files, built on first use from two Debian packages and kept in the cache."""
    directory = CACHE / "tiny-guest"
    directory.mkdir(parents=True, exist_ok=True)
    kernel_package = _kernel_package()
    guest = TinyGuest(directory / f"{kernel_package.stem}.vmlinuz", directory / f"{kernel_package.stem}.cpio")
    if not guest.kernel.exists():
        (kernel,) = _members(kernel_package, "./boot/vmlinuz-").values()
        _write(guest.kernel, kernel)
    # Made anew each time: it is quick, and never older than the script above.
    modules = _members(kernel_package, "./lib/modules/", suffixes=tuple(f"/{name}.ko" for name in _MODULES))
    (busybox,) = _members(_package("busybox-static"), "./bin/busybox").values()
    _write(guest.initramfs, _initramfs(busybox, modules))
    return guest


def write_word(disk: Path, word: str) -> None:
    """Put `word` where the guest looks for it; `disk` is created if need be."""
    disk.touch()
    os.truncate(disk, DISK_BYTES)
    with disk.open("r+b") as file:
        file.write(word.encode().ljust(511, b"\n") + b"\n")


async def printed(console: Path, text: str, *, seconds: float = 30) -> str:
    """Return what the guest printed, once it contains `text`."""
    async with asyncio.timeout(seconds):
        while True:
            content = _read(console)
            if text in content:
                return content
            await asyncio.sleep(0.02)


def last_words(console: Path) -> str | None:
    """Return the last complete list of words that the guest printed, as the line it printed; None before the first."""
    lines = [line.strip() for line in _read(console).splitlines() if line.startswith(READY)]
    complete = [line for line in lines if line.endswith(".")]
    return complete[-1] if complete else None


def _read(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""


def _kernel_package() -> Path:
    cached = sorted((CACHE / "debs").glob("linux-image-*-cloud-amd64_*.deb"))
    if cached:
        return cached[-1]
    depends = subprocess.run(
        ["apt-cache", "depends", "linux-image-cloud-amd64"], check=True, capture_output=True, text=True
    ).stdout
    return _package(depends.split("Depends:")[1].split()[0])


def _package(name: str) -> Path:
    debs = CACHE / "debs"
    debs.mkdir(parents=True, exist_ok=True)
    if not list(debs.glob(f"{name}_*.deb")):
        subprocess.run(
            ["apt-get", "download", "-o", "APT::Sandbox::User=root", name], cwd=debs, check=True, capture_output=True
        )
    return max(debs.glob(f"{name}_*.deb"))


def _members(package: Path, prefix: str, suffixes: tuple[str, ...] = ("",)) -> dict[str, bytes]:
    tar = subprocess.run(["dpkg-deb", "--fsys-tarfile", str(package)], check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        wanted = [m for m in archive if m.isreg() and m.name.startswith(prefix) and m.name.endswith(suffixes)]
        contents = {member.name: archive.extractfile(member) for member in wanted}
        return {name: file.read() for name, file in contents.items() if file is not None}


def _write(path: Path, content: bytes) -> None:
    # Renamed into place: two test runs may share the cache.
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    partial.write_bytes(content)
    partial.replace(path)


def _initramfs(busybox: bytes, modules: dict[str, bytes]) -> bytes:
    entries = [_cpio_entry(name, 0o40755) for name in ("dev", "proc", "bin", "modules")]
    entries.append(_cpio_entry("dev/console", 0o20600, device=(5, 1)))
    entries.append(_cpio_entry("bin/busybox", 0o100755, busybox))
    entries += [_cpio_entry(f"modules/{Path(name).name}", 0o100644, data) for name, data in modules.items()]
    entries.append(_cpio_entry("init", 0o100755, _INIT))
    entries.append(_cpio_entry("TRAILER!!!", 0))
    return b"".join(entries)


def _cpio_entry(name: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0)) -> bytes:
    """One file in the `newc` format: 13 numbers of 8 hex digits, the name, the content, each padded to 4 bytes."""
    encoded = name.encode() + b"\0"
    numbers = (0, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(encoded), 0)
    header = b"070701" + b"".join(b"%08X" % number for number in numbers) + encoded
    return header + b"\0" * (-len(header) % 4) + data + b"\0" * (-len(data) % 4)
