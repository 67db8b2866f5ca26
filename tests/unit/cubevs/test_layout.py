"""The C and the Python halves of CubeVS agree: compiled by the C compiler, not read by eye."""

from __future__ import annotations

import re
import struct
import subprocess
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from appliance.cubevs import maps
from appliance.cubevs.base import DropReason
from appliance.cubevs.loader import SOURCE_DIRECTORY

STRUCTS = {
    "cube_config": maps.Config.LAYOUT,
    "cube_tap": maps.TapEntry.LAYOUT,
    "cube_policy_key": maps.PolicyKey.LAYOUT,
    "cube_network_key": maps.NetworkKey.LAYOUT,
    "cube_session_key": maps.SessionKey.LAYOUT,
    "cube_session": maps.Session.LAYOUT,
    "cube_diverted_key": maps.DivertedKey.LAYOUT,
    "cube_destination": maps.Destination.LAYOUT,
}
# Each value is told apart by its bytes, so that two fields in the wrong order show.
SAMPLES = {
    "cube_config": (
        maps.Config(
            node_address=IPv4Address("1.2.3.4"),
            sandbox_network=IPv4Network("5.6.0.0/16"),
            dns_address=IPv4Address("9.8.7.6"),
            tcp_idle_s=11,
            tcp_closed_s=12,
            datagram_idle_s=13,
            proxy_http_port=0x1415,
            proxy_tls_port=0x1617,
        ).pack(),
        """{.node_address = htonl(0x01020304), .sandbox_network = htonl(0x05060000),
            .sandbox_netmask = htonl(0xffff0000), .dns_address = htonl(0x09080706),
            .tcp_idle_s = 11, .tcp_closed_s = 12,
            .datagram_idle_s = 13, .proxy_http_port = htons(0x1415), .proxy_tls_port = htons(0x1617)}""",
    ),
    "cube_tap": (
        maps.TapEntry(
            IPv4Address("1.2.3.4"), maps.TapFlag.ADMITTED | maps.TapFlag.INTERNET | maps.TapFlag.BY_DOMAIN, 7
        ).pack(),
        "{.address = htonl(0x01020304), .flags = TAP_ADMITTED | TAP_INTERNET | TAP_BY_DOMAIN, .generation = 7}",
    ),
    "cube_policy_key": (
        maps.PolicyKey(3, 4, maps.PolicyList.DENY, IPv4Network("5.6.0.0/16")).pack(),
        """{.prefixlen = POLICY_FIXED_BITS + 16, .ifindex = 3, .generation = 4, .list = LIST_DENY,
            .network = htonl(0x05060000)}""",
    ),
    "cube_network_key": (
        maps.NetworkKey(IPv4Network("5.6.0.0/16")).pack(),
        "{.prefixlen = 16, .network = htonl(0x05060000)}",
    ),
    "cube_session_key": (
        maps.SessionKey(IPv4Address("1.2.3.4"), 0x1122, 0x3344, 17).pack(),
        "{.peer = htonl(0x01020304), .guest_port = htons(0x1122), .peer_port = htons(0x3344), .protocol = 17}",
    ),
    "cube_session": (
        maps.Session(
            0x0102030405060708,
            maps.Opener.GUEST,
            maps.Closed.BY_PEER | maps.Closed.RESET,
            IPv4Address("1.2.3.4"),
            0x1122,
        ).pack(),
        """{.seen_ns = 0x0102030405060708, .opener = OPENED_BY_GUEST, .closed = CLOSED_BY_PEER | RESET,
            .original_port = htons(0x1122), .original = htonl(0x01020304)}""",
    ),
    "cube_diverted_key": (
        maps.DivertedKey(IPv4Address("1.2.3.4"), 0x1122, 0x3344).pack(),
        "{.tap_address = htonl(0x01020304), .guest_port = htons(0x1122), .proxy_port = htons(0x3344)}",
    ),
    "cube_destination": (
        maps.Destination(IPv4Address("1.2.3.4"), 0x1122).pack(),
        "{.address = htonl(0x01020304), .port = htons(0x1122)}",
    ),
}
Packed = (
    maps.PolicyKey
    | maps.NetworkKey
    | maps.SessionKey
    | maps.Session
    | maps.TapEntry
    | maps.DivertedKey
    | maps.Destination
)
PROLOGUE = """
#include <arpa/inet.h>
#include <stdint.h>
#include <unistd.h>
typedef uint8_t u8; typedef uint32_t u32; typedef uint64_t u64; typedef uint16_t __be16; typedef uint32_t __be32;
#define BPF_TABLE(...)
#define BPF_TABLE_PINNED(...)
"""


@pytest.fixture(scope="module")
def structs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return each sample as C lays it out."""
    directory = tmp_path_factory.mktemp("layout")
    samples = "\n".join(f"struct {name} {name} = {text};" for name, (_, text) in SAMPLES.items())
    writes = "\n".join(f"if (write(1, &{name}, sizeof({name})) != sizeof({name})) return 1;" for name in SAMPLES)
    source = directory / "layout.c"
    source.write_text(
        f'{PROLOGUE}\n#include "{SOURCE_DIRECTORY / "maps.h"}"\nint main(void) {{\n{samples}\n{writes}\nreturn 0;\n}}\n'
    )
    program = directory / "layout"
    subprocess.run(("cc", "-Wall", "-Werror", "-o", str(program), str(source)), check=True, timeout=60)
    output = subprocess.run((str(program),), check=True, capture_output=True, timeout=10).stdout
    found, at = {}, 0
    for name, layout in STRUCTS.items():
        found[name] = output[at : at + layout.size]
        at += layout.size
    assert at == len(output), "sizes differ"
    return found


@pytest.mark.parametrize("name", STRUCTS)
def test_struct_is_the_same_in_c(structs: dict[str, bytes], name: str) -> None:
    assert structs[name] == SAMPLES[name][0]


def test_drop_reasons_are_the_same_in_c() -> None:
    text = (SOURCE_DIRECTORY / "reasons.h").read_text()
    in_c = {name: int(number) for name, number in re.findall(r"^\tDROP_(\w+) = (\d+),$", text, re.MULTILINE)}
    assert in_c == {reason.name: reason.value for reason in DropReason}


def test_every_reason_has_a_counter() -> None:
    assert max(DropReason) < maps.SHAPES["drops"].max_entries


def test_pinned_maps_are_the_same_in_c() -> None:
    text = (SOURCE_DIRECTORY / "maps.h").read_text()
    in_c = re.findall(r'BPF_TABLE_PINNED\("(\w+)[^;]*CUBE_MAPS "/(\w+)"\)', text)
    assert {(name, kind) for kind, name in in_c} == {
        (name, shape.type.name.lower()) for name, shape in maps.SHAPES.items()
    }


@pytest.mark.parametrize(
    "value",
    [
        maps.PolicyKey(3, 4, maps.PolicyList.ALLOW, IPv4Network("0.0.0.0/0")),
        maps.NetworkKey(IPv4Network("100.64.0.0/10")),
        maps.SessionKey(IPv4Address("1.2.3.4"), 1, 65535, 6),
        maps.Session(1, maps.Opener.NODE, maps.Closed(0)),
        maps.Session(1, maps.Opener.GUEST, maps.Closed(0), IPv4Address("1.2.3.4"), 65535),
        maps.TapEntry(IPv4Address("1.2.3.4")),
        maps.DivertedKey(IPv4Address("1.2.3.4"), 1, 65535),
        maps.Destination(IPv4Address("1.2.3.4"), 65535),
    ],
)
def test_what_is_packed_unpacks(value: Packed) -> None:
    assert type(value).unpack(value.pack()) == value


def test_tap_flags_are_the_same_in_c() -> None:
    text = (SOURCE_DIRECTORY / "maps.h").read_text()
    in_c = {name: int(bit) for name, bit in re.findall(r"^#define TAP_(\w+) (\d+)u", text, re.MULTILINE)}
    assert in_c == {flag.name: flag.value for flag in maps.TapFlag}


def test_a_fresh_configuration_is_closed() -> None:
    """The programs drop all while `node_address`, the first field, is zero."""
    assert maps.Config.LAYOUT.unpack(bytes(maps.Config.LAYOUT.size))[0] == struct.pack("4x")


def test_sources_include_nothing_twice() -> None:
    included = re.findall(r'#include "([^"]+)"', Path(SOURCE_DIRECTORY / "cubevs.bpf.c").read_text())
    assert sorted(included) == sorted({path.name for path in SOURCE_DIRECTORY.glob("*.h")})
