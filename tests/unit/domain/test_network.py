from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.domain.errors import InvalidRequest
from appliance.domain.network import (
    AGENT_PORT,
    MAX_ENTRIES,
    MAX_HTTPS_PORTS,
    SandboxNetwork,
    check_mask,
    check_network,
    is_domain,
    parse_domains,
    parse_networks,
    split_allowed,
)


def refusal(network: SandboxNetwork) -> str:
    with pytest.raises(InvalidRequest) as caught:
        check_network(network)
    return caught.value.message


@pytest.mark.parametrize(
    "entry", ["", "x", "1.2.3", "1.2.3.256", "1.2.3.4/33", "1.2.3.4/", "10.0.0.0/255.0.0.0", " 1.1.1.1"]
)
def test_what_is_denied_must_be_a_network(entry: str) -> None:
    assert refusal(SandboxNetwork(deny_out=("1.1.1.1", entry))) == f"invalid denied CIDR {entry}"


@pytest.mark.parametrize(
    "entry",
    [
        "",
        "1.2.3",
        "1.2.3.256",
        "1.2.3.4/33",
        "::1",
        "a..b",
        "*x.com",
        "*.*.com",
        "a.*.com",
        "**",
        "a b.com",
        "http://a.b",
        "a.b:443",
        "bücher.example",
        "a.com\n",
        "a." * 126 + "com",
    ],
)
def test_what_is_allowed_must_be_a_network_or_a_domain(entry: str) -> None:
    assert refusal(SandboxNetwork(allow_out=(entry,))) == f"invalid allowed address {entry}"


@pytest.mark.parametrize("domain", ["example.com", "*.example.com", "*", "localhost", "a_b.xn--p1ai"])
def test_domains_want_all_else_denied(domain: str) -> None:
    for denied in ((), ("10.0.0.0/8",), ("0.0.0.0/1", "128.0.0.0/1")):
        assert refusal(SandboxNetwork(allow_out=("1.1.1.1", domain), deny_out=denied)) == (
            "When specifying allowed domains in allow out, you must include 'ALL_TRAFFIC' in deny out"
            " to block all other traffic."
        )
    check_network(SandboxNetwork(allow_out=("1.1.1.1", domain), deny_out=("10.0.0.0/8", "0.0.0.0/0")))
    check_network(SandboxNetwork(allow_internet=False, allow_out=(domain,), deny_out=("0.0.0.0/0",)))


def test_addresses_and_domains_are_told_apart_in_their_order() -> None:
    entries = ("b.org", "1.1.1.1", "*", "10.0.0.0/8", "*.a.com", "localhost")
    assert split_allowed(entries) == (("1.1.1.1", "10.0.0.0/8"), ("b.org", "*", "*.a.com", "localhost"))


def test_domains_are_compared_in_lower_case_without_a_final_dot() -> None:
    assert parse_domains(["Example.COM.", "*.A.b", "*"]) == ("example.com", "*.a.b", "*")
    with pytest.raises(InvalidRequest, match=r"invalid allowed address 1\.1\.1\.1"):
        parse_domains(["a.b", "1.1.1.1"])


@given(st.text())
def test_no_entry_is_both_an_address_and_a_domain(entry: str) -> None:
    if is_domain(entry):
        with pytest.raises(InvalidRequest):
            parse_networks([entry], kind="allowed address")


def test_host_bits_do_not_matter_as_in_e2b() -> None:
    assert parse_networks(["10.1.2.3/8"], kind="denied CIDR") == (ipaddress.IPv4Network("10.0.0.0/8"),)


def test_lists_are_bounded() -> None:
    check_network(SandboxNetwork(deny_out=("1.1.1.1",) * MAX_ENTRIES))
    assert "network.denyOut can have at most" in refusal(SandboxNetwork(deny_out=("1.1.1.1",) * (MAX_ENTRIES + 1)))


@pytest.mark.parametrize(
    "mask", ["localhost", "localhost:${PORT}", "${PORT}-app.example.com:8080", "10.0.0.1:80", "a_b"]
)
def test_masks_are_hosts_with_or_without_a_port(mask: str) -> None:
    check_mask(mask)


@pytest.mark.parametrize(
    "mask",
    [
        "",
        ":80",
        "a:",
        "a:0",
        "a:65536",
        "a:b",
        "a b",
        "a/b",
        "a..b",
        ".a",
        "http://a",
        "a\r\nX: y",
        "a\n",
        "${PORT",
        "$host",
        "u@a",
    ],
)
def test_other_masks_are_not_valid(mask: str) -> None:
    with pytest.raises(InvalidRequest, match="mask request host is not valid: "):
        check_mask(mask)


def test_masks_are_ascii() -> None:
    with pytest.raises(InvalidRequest, match=r"'bücher\.example' is not ASCII\. Please use ASCII"):
        check_mask("bücher.example")


@given(st.text())
def test_no_mask_that_passes_can_break_out_of_a_header(mask: str) -> None:
    try:
        check_mask(mask)
    except InvalidRequest:
        return
    assert mask.isascii()
    assert not set(mask) & set(" \t\r\n,;/@\\'\"<>")


def test_dns_servers_are_addresses() -> None:
    check_network(SandboxNetwork(dns_servers=()))
    check_network(SandboxNetwork(dns_servers=("1.1.1.1",) * 10))
    assert refusal(SandboxNetwork(dns_servers=("1.1.1.1",) * 11)) == "network.dnsServers can have at most 10 entries"
    for server in ("", "::1", "1.1.1.0/24", "dns.google", "1.1.1"):
        assert refusal(SandboxNetwork(dns_servers=(server,))) == (f"invalid DNS server {server}: give an IPv4 address")


@pytest.mark.parametrize("port", [-1, 0, 65536])
def test_a_port_that_serves_tls_must_be_one(port: int) -> None:
    refused = refusal(SandboxNetwork(https_ports=(443, port)))
    assert refused == f"network.httpsPorts: {port} is not a port; use 1 to 65535"


def test_the_agent_serves_no_tls() -> None:
    assert "49983 is the port of the sandbox's agent" in refusal(SandboxNetwork(https_ports=(AGENT_PORT,)))


def test_ports_that_serve_tls_are_bounded() -> None:
    ports = tuple(range(8000, 8000 + MAX_HTTPS_PORTS))
    check_network(SandboxNetwork(https_ports=(1, 65535, *ports[2:])))
    assert "at most 64" in refusal(SandboxNetwork(https_ports=(*ports, 443)))
