"""Compile the programs with BCC, load them and pin them.

BCC brings all of LLVM (130 MB of memory, half a second), so it runs in a process of its own, and only when no programs
with the digest of today's source are pinned. The node agent opens the pins.

BCC wants kernel headers. Those of another version serve, since the programs use UAPI types alone; `find_headers` takes
the running kernel's where they are installed and any others else. BCC itself learns of them by BCC_KERNEL_SOURCE, which
is set for the compiler's process only; the second directory of a split installation (Debian) is given as `-I`.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import shutil
import sys
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final

from appliance.cubevs.base import GATEWAY_ADDRESS, GATEWAY_MAC, GUEST_ADDRESS, GUEST_MAC, PROXY_TCP_PORT
from appliance.cubevs.kernel import open_pin
from appliance.domain.errors import DeadlineExceeded, NetworkFailure

SOURCE_DIRECTORY: Final = Path(__file__).parent / "bpf"
MAIN_SOURCE: Final = "cubevs.bpf.c"
FROM_GUEST: Final = "cube_from_guest"
TO_GUEST: Final = "cube_to_guest"
_COMPILE_DEADLINE_S: Final = 60.0

_INCLUDE = re.compile(r'^#include "([a-z_]+\.h)"$', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class KernelHeaders:
    """Two trees on Debian (`source` has the headers, `build` what was generated); the same one twice elsewhere."""

    source: Path
    build: Path


@dataclass(frozen=True, slots=True)
class Programs:
    """The loaded programs, by descriptor."""

    from_guest: int
    to_guest: int
    digest: str

    def close(self) -> None:
        os.close(self.from_guest)
        os.close(self.to_guest)


def find_headers(
    release: str | None = None, *, modules: Path = Path("/lib/modules"), sources: Path = Path("/usr/src")
) -> KernelHeaders:
    """Return the headers of kernel `release` (default: the running one) or, where it has none, of another.

    They are found by the links that packages leave in `modules`, or in `sources` itself: systemd's ProtectKernelModules
    hides the former from a service.
    """
    wanted = release or os.uname().release
    if linked := [d for d in modules.glob("*") if (d / "build").is_dir()]:
        best = max(linked, key=lambda d: (d.name == wanted, d.name))
        source, build = best / "source", best / "build"
        return KernelHeaders(source=source if source.is_dir() else build, build=build)
    generated = "include/generated/autoconf.h"
    trees = [*sources.glob(f"linux-headers-*/{generated}"), *sources.glob(f"kernels/*/{generated}")]
    if configured := [tree.parents[2] for tree in trees]:
        build = max(configured, key=lambda d: (wanted in d.name, d.name))
        common = build.with_name(f"{build.name.rpartition('-')[0]}-common")
        return KernelHeaders(source=common if common.is_dir() else build, build=build)
    raise NetworkFailure(
        f"no kernel headers under {modules} or {sources}: install linux-headers (Debian, Ubuntu) or kernel-devel (RHEL)"
    )


def amalgamate(directory: Path = SOURCE_DIRECTORY, main: str = MAIN_SOURCE) -> str:
    """Return the programs as one text: BCC rewrites map accesses in the main file only, not in included ones."""

    text = (directory / main).read_text()

    def inline(match: re.Match[str]) -> str:
        included = (directory / match[1]).read_text().replace("#pragma once\n", "\n")
        here = text.count("\n", 0, match.end()) + 1
        return f'#line 1 "{match[1]}"\n{included}\n#line {here + 1} "{main}"'

    return _INCLUDE.sub(inline, text)


def definitions(maps: Path) -> list[str]:
    """Return the compiler flags that carry the addressing of base.py and the place of the pins."""
    return [
        f"-DGUEST_ADDRESS={_address(GUEST_ADDRESS)}",
        f"-DGATEWAY_ADDRESS={_address(GATEWAY_ADDRESS)}",
        f"-DGUEST_MAC={_mac(GUEST_MAC)}",
        f"-DGATEWAY_MAC={_mac(GATEWAY_MAC)}",
        f"-DPROXY_TCP_PORT={PROXY_TCP_PORT}",
        f'-DCUBE_MAPS="{maps}"',
    ]


def _address(address: IPv4Address) -> str:
    return f"{int.from_bytes(address.packed, sys.byteorder):#x}u"


def _mac(mac: str) -> str:
    """Return three 16-bit words in memory order."""
    octets = bytes.fromhex(mac.replace(":", ""))
    return ",".join(f"{int.from_bytes(octets[i : i + 2], sys.byteorder):#x}" for i in (0, 2, 4))


def digest(maps: Path) -> str:
    """Name what would be compiled: the same name, the same programs."""
    text = "\n".join([amalgamate(), *definitions(maps)])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


async def load_programs(maps: Path, programs: Path, headers: KernelHeaders | None) -> Programs:
    """Return the programs of today's source, compiled unless they are pinned under `programs` already."""
    name = digest(maps)
    pins = programs / name
    if not (pins / TO_GUEST).exists():
        await _compile(maps, pins, headers or find_headers())
    from_guest = open_pin(pins / FROM_GUEST)
    return Programs(from_guest, open_pin(pins / TO_GUEST), name)


def forget_other_programs(programs: Path, keep: str) -> None:
    """Unpin the programs of former releases, once no tap runs them."""
    for stale in programs.iterdir():
        if stale.name != keep:
            shutil.rmtree(stale)


async def _compile(maps: Path, pins: Path, headers: KernelHeaders) -> None:
    argv = (sys.executable, "-m", __name__, str(maps), str(pins), str(headers.source), str(headers.build))
    process = await asyncio.create_subprocess_exec(
        *argv,
        env={"PATH": os.defpath, "PYTHONPATH": os.pathsep.join(sys.path), "BCC_KERNEL_SOURCE": str(headers.source)},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(_COMPILE_DEADLINE_S):
            _, errors = await process.communicate()
    except TimeoutError as error:
        raise DeadlineExceeded("compiling the CubeVS programs", _COMPILE_DEADLINE_S) from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        raise NetworkFailure(f"the CubeVS programs do not load: {errors.decode(errors='replace')[-4000:]}")


def compile_and_pin(maps: Path, pins: Path, headers: KernelHeaders) -> None:
    """Compile, verify and pin both programs. The second pin is the sign that both are there."""
    from bcc import BPF, lib  # noqa: PLC0415 - only the compiler's process pays for LLVM

    architecture = "arch/x86/include/generated"
    trees = [f"{architecture}/uapi", architecture, "include/generated/uapi", "include"]
    flags = [*definitions(maps), *(f"-I{headers.build / tree}" for tree in trees), "-Wno-macro-redefined"]
    compiled = BPF(text=amalgamate(), cflags=flags)
    pins.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name in (FROM_GUEST, TO_GUEST):
        (pins / name).unlink(missing_ok=True)
        function = compiled.load_func(name, BPF.SCHED_CLS)
        if lib.bpf_obj_pin(function.fd, os.fsencode(pins / name)) != 0:
            raise NetworkFailure(f"cannot pin {name} at {pins}: is it a BPF file system?")


def main() -> None:
    maps, pins, source, build = (Path(argument) for argument in sys.argv[1:])
    compile_and_pin(maps, pins, KernelHeaders(source=source, build=build))


if __name__ == "__main__":
    main()
