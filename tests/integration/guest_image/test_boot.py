"""The guest boots from any image, and a guest that cannot boot says why and ends."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from image_build import squashfs
from tests.integration.guest_image.conftest import Boot
from tests.support.guest_images import IMAGES
from tests.support.waiting import eventually

pytestmark = [pytest.mark.root, pytest.mark.guest]

# The brackets keep the pattern from matching the command line of the shell that looks for it.
_KILL_AGENT = 'for p in /proc/[0-9]*; do grep -q "guest[_]agent" $p/cmdline && kill -9 ${p#/proc/}; done'
_KILL_SERVER = _KILL_AGENT.replace("guest[_]agent", "http[d]")


@pytest.mark.parametrize("name", IMAGES)
async def test_agent_answers_and_runs_programs_in_any_image(name: str, boot: Boot, tmp_path: Path) -> None:
    image = IMAGES[name]
    guest = await boot([image.layer(tmp_path)])
    await guest.answers()
    await guest.init()
    assert image.says in await guest.run(*image.command)


async def test_guest_has_its_network_and_an_upper_layer_hides_a_lower(boot: Boot, tmp_path: Path) -> None:
    lower, upper = tmp_path / "lower", tmp_path / "upper"
    for directory in (lower, upper):
        directory.mkdir()
    base = IMAGES["alpine"].layer(lower)
    (upper / "tree/etc").mkdir(parents=True)
    (upper / "tree/etc/alpine-release").write_text("of the upper layer\n")
    above = tmp_path / "above.squashfs"
    squashfs.pack(upper / "tree", above, compress=False)
    guest = await boot([base, above])
    await guest.answers()
    await guest.init()

    assert await guest.read_file("/etc/alpine-release") == "of the upper layer\n"
    assert await guest.read_file("/etc/resolv.conf") == "nameserver 169.254.0.22\n"
    # Kernel tables print addresses as little-endian hexadecimal: 169.254.0.22 is 1600FEA9.
    assert "eth0\t00000000\t1600FEA9" in await guest.run("/bin/cat", "/proc/net/route")
    arp = (await guest.run("/bin/cat", "/proc/net/arp")).split()
    assert "02:fc:00:00:00:06" in arp
    assert "0x6" in arp, "the gateway's entry is permanent: nobody answers ARP for it"
    interfaces = await guest.run("/bin/cat", "/proc/net/if_inet6")
    assert "eth0" not in interfaces, "the switch drops IPv6; the guest must not wait for it"
    assert " lo\n" in interfaces
    limits = await guest.run("/bin/cat", "/proc/self/limits")
    assert re.search(r"^Max open files\s+65536\s+1048576\s", limits, re.MULTILINE)


async def test_agent_that_dies_comes_back_and_orphans_are_reaped(boot: Boot, tmp_path: Path) -> None:
    guest = await boot([IMAGES["alpine"].layer(tmp_path)])
    await guest.answers()
    await guest.init()
    # The subshell outlives the shell that the agent started, and becomes a child of process 1.
    await guest.run("/bin/sh", "-c", f"(sleep 0.2; {_KILL_AGENT}) >/dev/null 2>&1 &")
    await guest.died_and_answers()
    assert "the guest agent ended (signal 9)" in guest.console
    states = await guest.run("/bin/sh", "-c", "cat /proc/[0-9]*/status 2>/dev/null | grep State:")
    assert "zombie" not in states


async def test_poweroff_ends_the_machine(boot: Boot, tmp_path: Path) -> None:
    guest = await boot([IMAGES["alpine"].layer(tmp_path)])
    await guest.answers()
    await guest.init()
    await guest.run("/bin/sh", "-c", "(sleep 0.2; kill -TERM 1) >/dev/null 2>&1 &")
    assert "panic" not in await guest.ends()


async def test_guest_without_layers_says_so_and_ends(boot: Boot) -> None:
    guest = await boot([])
    console = await guest.ends()
    assert "cannot boot: 2 disks are attached: need the agent's, a writable one and at least one layer" in console


async def test_guest_with_a_broken_layer_says_which_and_ends(boot: Boot, tmp_path: Path) -> None:
    broken = tmp_path / "broken.squashfs"
    broken.write_bytes(b"\0" * 8192)
    guest = await boot([broken])
    assert "cannot boot: mount /dev/vdc (squashfs)" in await guest.ends()


async def test_service_on_loopback_is_reached_from_the_node_while_it_runs(boot: Boot, tmp_path: Path) -> None:
    guest = await boot([IMAGES["alpine"].layer(tmp_path)])
    await guest.answers()
    await guest.init()
    assert guest.fetch(8080, "/alpine-release") is None
    await guest.run("/bin/busybox", "httpd", "-p", "127.0.0.1:8080", "-h", "/etc")
    await eventually(lambda: guest.fetch(8080, "/alpine-release") == b"3.22.1\n")
    await guest.run("/bin/sh", "-c", _KILL_SERVER)
    await eventually(lambda: guest.fetch(8080, "/alpine-release") is None)
