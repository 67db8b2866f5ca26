"""The pure parts of CubeVS: names and addresses, expiry, policies, the packet filter's text, where headers are."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from appliance.cubevs import firewall, loader, taps
from appliance.cubevs.base import HARD_DENIED_NETWORKS, EgressPolicy
from appliance.cubevs.maps import Closed, Config, Opener, PolicyKey, PolicyList, Session, SessionKey, TapFlag
from appliance.cubevs.policy_entries import policy_keys, tap_flags
from appliance.cubevs.reaper import is_expired, stale_policy
from appliance.cubevs.switch import DEFAULT_DENIED_NETWORKS
from appliance.domain.egress import HeaderRule, Tunnel
from appliance.domain.errors import NetworkFailure

NETWORK = IPv4Network("10.88.0.0/16")
CONFIG = Config(
    node_address=NETWORK[1],
    sandbox_network=NETWORK,
    dns_address=NETWORK[1],
    tcp_idle_s=1000,
    tcp_closed_s=100,
    datagram_idle_s=10,
    proxy_http_port=10080,
    proxy_tls_port=10443,
)
SECOND = 1_000_000_000


def test_taps_are_numbered_from_one_after_the_nodes_own_address() -> None:
    assert (taps.tap_name(1), taps.tap_address(NETWORK, 1)) == ("cubetap1", IPv4Address("10.88.0.2"))
    assert taps.tap_address(NETWORK, taps.highest_index(NETWORK)) == IPv4Address("10.88.255.254")


@pytest.mark.parametrize("name", ["cubetap0", "cubetap", "cubetap01", "cubetapx", "xcubetap1", "cubetap1x", "eth0"])
def test_other_devices_are_no_taps(name: str) -> None:
    assert taps.tap_index(name) is None


def test_an_index_is_read_back_from_a_name() -> None:
    assert taps.tap_index(taps.tap_name(117)) == 117


@pytest.mark.parametrize(
    ("protocol", "closed", "idle_s", "expired"),
    [
        (socket.IPPROTO_UDP, Closed(0), 10, False),
        (socket.IPPROTO_UDP, Closed(0), 11, True),
        (socket.IPPROTO_ICMP, Closed(0), 11, True),
        (socket.IPPROTO_TCP, Closed(0), 1000, False),
        (socket.IPPROTO_TCP, Closed(0), 1001, True),
        (socket.IPPROTO_TCP, Closed.BY_GUEST, 1000, False),
        (socket.IPPROTO_TCP, Closed.BY_GUEST | Closed.BY_PEER, 101, True),
        (socket.IPPROTO_TCP, Closed.RESET, 100, False),
        (socket.IPPROTO_TCP, Closed.RESET, 101, True),
    ],
)
def test_expiry(protocol: int, closed: Closed, idle_s: int, *, expired: bool) -> None:
    key = SessionKey(IPv4Address("203.0.113.2"), 1, 2, protocol)
    session = Session(5 * SECOND, Opener.GUEST, closed)
    assert is_expired(key, session, CONFIG, now_ns=(5 + idle_s) * SECOND) is expired


def test_policy_entries_of_former_generations_and_absent_taps_are_stale() -> None:
    kept = PolicyKey(7, 2, PolicyList.ALLOW, NETWORK).pack()
    former = PolicyKey(7, 1, PolicyList.ALLOW, NETWORK).pack()
    absent = PolicyKey(8, 2, PolicyList.ALLOW, NETWORK).pack()
    assert stale_policy([kept, former, absent], {7: 2}) == [former, absent]


def test_a_policy_becomes_one_entry_a_network() -> None:
    allowed, denied = IPv4Network("203.0.113.0/24"), IPv4Network("198.51.100.0/24")
    assert policy_keys(7, 3, EgressPolicy(allow=(allowed,), deny=(denied,))) == [
        PolicyKey(7, 3, PolicyList.ALLOW, allowed),
        PolicyKey(7, 3, PolicyList.DENY, denied),
    ]


@pytest.mark.parametrize("address", ["169.254.169.254", "168.63.129.16", "100.100.100.200", "127.0.0.1", "224.0.0.1"])
def test_metadata_services_are_denied_whatever_the_setting(address: str) -> None:
    assert any(IPv4Address(address) in network for network in HARD_DENIED_NETWORKS)


@pytest.mark.parametrize("address", ["10.0.0.1", "172.31.0.1", "192.168.1.1", "100.64.0.1"])
def test_private_networks_are_denied_by_default(address: str) -> None:
    assert any(IPv4Address(address) in network for network in DEFAULT_DENIED_NETWORKS)


def test_the_ruleset_names_the_network_and_dns() -> None:
    text = firewall.ruleset(NETWORK, IPv4Address("10.88.0.1"), flows_per_guest=10)
    assert "ip saddr 10.88.0.0/16 ip saddr != 10.88.0.1" in text
    assert "ip daddr 10.88.0.1 udp dport 53 accept" in text
    assert "ip daddr 10.88.0.1 tcp dport { 10080, 10443, 10999 } accept" in text


def test_without_dns_the_node_answers_no_questions_of_guests() -> None:
    assert "dport 53" not in firewall.ruleset(NETWORK, None, flows_per_guest=10)


def make_headers(modules: Path, release: str, *, split: bool) -> None:
    for part in ("build", "source") if split else ("build",):
        (modules / release / part).mkdir(parents=True)


def test_headers_of_the_running_kernel_come_first(tmp_path: Path) -> None:
    make_headers(tmp_path, "5.0-a", split=False)
    make_headers(tmp_path, "9.0-a", split=False)
    assert loader.find_headers("5.0-a", modules=tmp_path).build == tmp_path / "5.0-a" / "build"


def test_headers_of_another_kernel_serve(tmp_path: Path) -> None:
    (tmp_path / "6.18").mkdir()
    make_headers(tmp_path, "6.1-b", split=True)
    assert loader.find_headers("6.18", modules=tmp_path) == loader.KernelHeaders(
        source=tmp_path / "6.1-b" / "source", build=tmp_path / "6.1-b" / "build"
    )


def test_no_headers_at_all_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(NetworkFailure, match="linux-headers"):
        loader.find_headers("6.18", modules=tmp_path, sources=tmp_path)


@pytest.mark.parametrize(
    ("tree", "common"),
    [
        ("linux-headers-6.1-amd64", "linux-headers-6.1-common"),
        ("kernels/5.14-el9", None),
        ("linux-headers-6.8-x", None),
    ],
)
def test_headers_are_found_where_modules_are_hidden(tmp_path: Path, tree: str, common: str | None) -> None:
    (tmp_path / tree / "include" / "generated").mkdir(parents=True)
    (tmp_path / tree / "include" / "generated" / "autoconf.h").touch()
    if common:
        (tmp_path / common).mkdir()
    found = loader.find_headers("6.18", modules=tmp_path / "hidden", sources=tmp_path)
    assert found == loader.KernelHeaders(source=tmp_path / (common or tree), build=tmp_path / tree)


def test_the_digest_follows_the_place_of_the_maps(tmp_path: Path) -> None:
    """Programs are bound to the maps they were compiled against."""
    assert loader.digest(tmp_path / "a") != loader.digest(tmp_path / "b")


def test_the_programs_are_one_text() -> None:
    assert '#include "' not in loader.amalgamate()


@pytest.mark.parametrize(
    ("policy", "flags"),
    [
        (EgressPolicy(), TapFlag.INTERNET),
        (EgressPolicy(allow_internet=False), TapFlag(0)),
        (EgressPolicy(allow_internet=False, allow_domains=("a.b",)), TapFlag.BY_DOMAIN),
        (EgressPolicy(allow_internet=False, header_rules=(HeaderRule("a.b", {}),)), TapFlag.INSPECTED),
        (EgressPolicy(allow_internet=False, tunnel=Tunnel("a.b", 1080)), TapFlag.TUNNELLED),
        (EgressPolicy(name_service=False), TapFlag.INTERNET | TapFlag.NAMELESS),
    ],
)
def test_each_part_of_a_policy_has_its_flag(policy: EgressPolicy, flags: TapFlag) -> None:
    assert tap_flags(policy) == TapFlag.ADMITTED | flags
