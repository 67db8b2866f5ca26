from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.cubevs.egress.rules import SandboxRules, host_name
from appliance.domain.egress import Tunnel, TunnelTls

PUBLIC = "93.184.216.34"
NODE = IPv4Address("198.18.0.1")


def rules(*domains: str) -> SandboxRules:
    return SandboxRules(
        sandbox_id="sandbox",
        allow_domains=domains,
        sandbox_network=IPv4Network("10.88.0.0/16"),
        denied_networks=(IPv4Network("10.0.0.0/8"), IPv4Network("8.8.0.0/16")),
    )


@pytest.mark.parametrize(
    ("pattern", "name", "allowed"),
    [
        ("example.com", "example.com", True),
        ("example.com", "www.example.com", False),
        ("example.com", "example.com.evil.org", False),
        ("example.com", "notexample.com", False),
        ("*.example.com", "www.example.com", True),
        ("*.example.com", "a.b.example.com", True),
        ("*.example.com", "example.com", False),
        ("*.example.com", "notexample.com", False),
        ("*.example.com", "example.com.evil.org", False),
        ("*", "anything.org", True),
        ("*", "localhost", True),
    ],
)
def test_names(pattern: str, name: str, *, allowed: bool) -> None:
    assert rules("other.org", pattern).allows_name(name) is allowed


def test_without_domains_no_name_is_allowed() -> None:
    assert not rules().allows_name("example.com")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Example.COM", "example.com"),
        ("example.com.", "example.com"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("_sip.example.com", "_sip.example.com"),
        ("localhost", "localhost"),
        ("a" * 63 + ".com", "a" * 63 + ".com"),
        ("a" * 64 + ".com", None),
        (".".join(["a" * 63] * 3 + ["b" * 58, "com"]), None),
        ("", None),
        (".", None),
        ("example..com", None),
        (".example.com", None),
        ("example.com..", None),
        ("*.example.com", None),
        ("-a.com", None),
        ("1.2.3.4", None),
        ("1.2.3.4.", None),
        ("0x7f.1", None),
        ("2130706433", None),
        ("::1", None),
        ("[::1]", None),
        ("example.com:443", None),
        ("exa mple.com", None),
        ("example.com\0.org", None),
        ("bücher.example", None),
        ("\N{KELVIN SIGN}.example", None),  # whose lower case is an ASCII k
        ("example.com\n", None),
    ],
)
def test_host_names(text: str, name: str | None) -> None:
    assert host_name(text) == name


@given(st.text())
def test_a_name_is_its_own_normal_form(text: str) -> None:
    name = host_name(text)
    assert name is None or (host_name(name) == name and name.isascii() and "*" not in name)


def may_reach(found: SandboxRules, address: str, *permitted: str) -> bool:
    networks = tuple(map(IPv4Network, permitted))
    return found.allows_address(IPv4Address(address), node_addresses={NODE, IPv4Address(PUBLIC)}, permitted=networks)


@pytest.mark.parametrize("address", ["93.184.216.35", "1.1.1.1"])
def test_public_addresses_are_reached(address: str) -> None:
    assert may_reach(rules("*"), address)


@pytest.mark.parametrize(
    "address",
    [
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "192.0.2.1",
        "198.18.0.2",
        "203.0.113.1",
        "8.8.8.8",  # public, but denied by the operator
    ],
)
def test_private_and_denied_addresses_are_reached_only_where_the_operator_permits(address: str) -> None:
    assert not may_reach(rules("*"), address)
    assert not may_reach(rules("*"), address, "1.0.0.0/8")
    assert may_reach(rules("*"), address, f"{address}/32")


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",
        "168.63.129.16",
        "100.100.100.200",
        "127.0.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "10.88.0.2",
        str(NODE),
        PUBLIC,
    ],
)
def test_metadata_sandboxes_and_the_node_are_never_reached(address: str) -> None:
    assert not may_reach(rules("*"), address, "0.0.0.0/0", f"{address}/32")


ALLOWED, DENIED, NEITHER = "93.184.216.34", "93.184.216.35", "1.1.1.1"


def reached_by_address(*, allow_internet: bool, allow: tuple[str, ...] = (), deny: tuple[str, ...] = ()) -> set[str]:
    """Return which of the three addresses a guest reaches."""
    networks = {"allow": tuple(map(IPv4Network, allow)), "deny": tuple(map(IPv4Network, deny))}
    found = rules().model_copy(update={"allow_internet": allow_internet, **networks})
    return {
        address
        for address in (ALLOWED, DENIED, NEITHER)
        if found.allows_by_address(IPv4Address(address), node_addresses={NODE})
    }


def test_allow_beats_deny_and_deny_the_internet() -> None:
    everything = ("0.0.0.0/0",)
    assert reached_by_address(allow_internet=True) == {ALLOWED, DENIED, NEITHER}
    assert reached_by_address(allow_internet=False) == set()
    assert reached_by_address(allow_internet=False, allow=(ALLOWED,)) == {ALLOWED}
    assert reached_by_address(allow_internet=True, deny=(DENIED,)) == {ALLOWED, NEITHER}
    assert reached_by_address(allow_internet=True, deny=everything) == set()
    assert reached_by_address(allow_internet=True, allow=(ALLOWED,), deny=everything) == {ALLOWED}
    assert reached_by_address(allow_internet=True, allow=("93.184.216.0/24",), deny=(DENIED,)) == {
        ALLOWED,
        DENIED,
        NEITHER,
    }


@pytest.mark.parametrize(
    "address", ["169.254.169.254", "127.0.0.1", "224.0.0.1", "10.88.0.2", "10.1.2.3", "8.8.8.8", str(NODE)]
)
def test_no_address_rule_lifts_what_nobody_may_reach(address: str) -> None:
    found = rules().model_copy(update={"allow_internet": True, "allow": (IPv4Network("0.0.0.0/0"),)})
    assert not found.allows_by_address(IPv4Address(address), node_addresses={NODE})


def test_rules_of_a_former_release_allow_nothing_by_address() -> None:
    text = '{"sandbox_id": "sandbox", "allow_domains": ["example.com"], "sandbox_network": "10.88.0.0/16"}'
    found = SandboxRules.model_validate_json(text)
    assert found.tunnel is None
    assert not found.allows_by_address(IPv4Address(PUBLIC), node_addresses=())


def test_a_tunnel_is_published_whole_and_its_password_is_not_shown() -> None:
    tunnel = Tunnel("proxy.example.com", 1080, "user", "secret", TunnelTls("proxy.example.com", "PEM"))
    found = rules("example.com").model_copy(update={"tunnel": tunnel})
    assert SandboxRules.model_validate_json(found.model_dump_json()).tunnel == tunnel
    assert "secret" not in repr(found)


def test_fields_of_a_newer_release_are_passed_over() -> None:
    found = rules("example.com").model_copy(update={"tunnel": Tunnel("proxy.example.com", 1080, tls=TunnelTls("a.b"))})
    text = found.model_dump_json().replace("{", '{"newer": 1, ')
    assert text.count("newer") == 3
    assert SandboxRules.model_validate_json(text) == found
