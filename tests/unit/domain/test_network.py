from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.domain.errors import InvalidRequest
from appliance.domain.network import MAX_ENTRIES, SandboxNetwork, check_mask, check_network, parse_networks


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
    "entry", ["", "1.2.3", "1.2.3.256", "1.2.3.4/33", "::1", "a..b", "*x.com", "a b.com", "http://a.b"]
)
def test_what_is_allowed_must_be_a_network_or_a_domain(entry: str) -> None:
    assert refusal(SandboxNetwork(allow_out=(entry,))) == f"invalid allowed address {entry}"


@pytest.mark.parametrize("domain", ["example.com", "*.example.com", "*", "localhost", "a_b.xn--p1ai"])
def test_domains_want_all_else_denied_and_are_not_served(domain: str) -> None:
    assert "you must include 'ALL_TRAFFIC' in deny out" in refusal(SandboxNetwork(allow_out=(domain,)))
    message = refusal(SandboxNetwork(allow_out=("1.1.1.1", domain), deny_out=("0.0.0.0/0",)))
    assert message.startswith("network.allowOut: domains")
    assert domain in message


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
