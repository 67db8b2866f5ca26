"""Whether this host can carry the lab, and the Debian packages that the lab needs of it."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

from bundle import mirror
from lab import host

MINIMUM_DISK_GIB = 12
MINIMUM_MEMORY_GIB = 6
MINIMUM_GO = (1, 25)

PACKAGES = (
    "build-essential", "ca-certificates", "dpkg-dev", "e2fsprogs", "iproute2", "libmariadb-dev", "mmdebstrap",
    "openssh-client", "pkg-config", "python3-dev", "python3-venv", "squashfs-tools", "squashfs-tools-ng",
    "systemd-container",
)  # fmt: skip
"""What `make up` runs on this host. Everything else is inside the lab's machines."""

TEST_PACKAGES = (
    "cpio", "dbus", "libnginx-mod-http-lua", "linux-headers-amd64", "lua-cjson", "lua-nginx-redis",
    "lua-resty-core", "lua-resty-lrucache", "mariadb-server", "mkcert", "nftables", "nginx-light", "python3-bpfcc",
    "qemu-system-x86", "qemu-utils", "redis-server", "skopeo", "tcpdump", "xfsprogs",
)  # fmt: skip
"""What the tests start on this host, outside the lab."""

_BACKPORTS = Path("/etc/apt/sources.list.d/cube-backports.list")
_BACKPORTS_PREFERENCES = Path("/etc/apt/preferences.d/cube-backports")


class Unsuitable(Exception):
    """What is missing, a line each, with its remedy."""


def check() -> None:
    """Raise Unsuitable with all that is wrong, not only the first."""
    go, disk, memory = _go(), _free_disk_gib(), _memory_gib()
    checks = (
        (os.geteuid() == 0, "run as root: it makes network namespaces and mounts"),
        (platform.machine() == "x86_64", f"an x86_64 host is needed; this one is {platform.machine()}"),
        (_debian() == "12", "Debian 12 is needed: the lab's machines are made with its tools and its Python 3.11"),
        (Path("/dev/net/tun").exists(), "/dev/net/tun is absent: modprobe tun"),
        (go >= MINIMUM_GO, "Go 1.25 or newer is needed on PATH, to build CoreDNS: https://go.dev/dl"),
        (disk >= MINIMUM_DISK_GIB, f"{MINIMUM_DISK_GIB} GiB of free disk are needed, and {disk:.0f} are there"),
        (memory >= MINIMUM_MEMORY_GIB, f"{MINIMUM_MEMORY_GIB} GiB of memory are needed, and {memory:.0f} are there"),
    )
    problems = [f"- {problem}" for holds, problem in checks if not holds]
    if problems:
        raise Unsuitable("\n".join(problems))


def install_packages(*, tests: bool) -> None:
    """Install those that are missing, and say which. The distribution's own services stay stopped."""
    wanted = PACKAGES + (TEST_PACKAGES if tests else ())
    missing = [name for name in wanted if not _installed(name)]
    if not missing:
        print(f"{len(wanted)} packages are installed")
        return
    print(f"installing {' '.join(missing)}", flush=True)
    if any(name.startswith("qemu") for name in missing):
        _add_backports()
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    host.run(["apt-get", "--quiet", "--quiet", "update"], env=quiet)
    with _services_stay_stopped():
        host.run(["apt-get", "--quiet", "--quiet", "--yes", "--no-install-recommends", "install", *missing], env=quiet)


def _installed(name: str) -> bool:
    query = ["dpkg-query", "--show", "--showformat=${db:Status-Status} ${Version}", name]
    done = subprocess.run(query, capture_output=True, text=True, check=False)
    if name == "qemu-system-x86" and "bpo" not in done.stdout:
        return False  # the release's own is too old to restore a microvm
    if name == "nginx-light" and shutil.which("nginx"):
        return True  # whichever flavour is there serves
    return done.returncode == 0 and done.stdout.startswith("installed")


def _add_backports() -> None:
    _BACKPORTS.write_text(f"deb {mirror.uris('bookworm')['bookworm-backports']} bookworm-backports main\n")
    _BACKPORTS_PREFERENCES.write_text("Package: qemu-* seabios\nPin: release n=bookworm-backports\nPin-Priority: 990\n")


class _services_stay_stopped:  # noqa: N801 -- reads as the statement it is
    """Debian starts a service when its package is installed, unless this program forbids it."""

    _POLICY = Path("/usr/sbin/policy-rc.d")

    def __enter__(self) -> None:
        self._ours = not self._POLICY.exists()
        if self._ours:
            self._POLICY.write_text("#!/bin/sh\nexit 101\n")
            self._POLICY.chmod(0o755)

    def __exit__(self, *_: object) -> None:
        if self._ours:
            self._POLICY.unlink()


def _debian() -> str:
    release = platform.freedesktop_os_release()
    return release.get("VERSION_ID", "") if release.get("ID") == "debian" else ""


def _go() -> tuple[int, int]:
    if not shutil.which("go"):
        return (0, 0)
    version = re.search(
        r"go(\d+)\.(\d+)", subprocess.run(["go", "version"], capture_output=True, text=True, check=False).stdout
    )
    return (int(version[1]), int(version[2])) if version else (0, 0)


def _free_disk_gib() -> float:
    return shutil.disk_usage(host.STATE.parent).free / 2**30


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
