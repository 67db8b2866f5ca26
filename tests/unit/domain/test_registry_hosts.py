from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.domain.errors import InvalidRequest
from appliance.domain.registry_hosts import is_public, refuse_internal


@pytest.mark.parametrize("host", ["docker.io", "gcr.io", "registry.example.com:5000", "8.8.8.8", "1.1.1.1:443", "a.b"])
def test_public_registries_are_taken(host: str) -> None:
    refuse_internal(host, allowed=())


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:5000",
        "registry",
        "registry:5000",
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f.1",
        "0x7f000001",
        "0177.0.0.1",
        "10.0.0.1:443",
        "172.16.3.4",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "metadata.google.internal",
        "a.localhost.",
        "printer.local",
        "host.home.arpa",
    ],
)
def test_internal_ones_are_refused_unless_they_are_allowed(host: str) -> None:
    with pytest.raises(InvalidRequest, match="not a public address"):
        refuse_internal(host, allowed=("other:5000",))
    refuse_internal(host, allowed=(host,))


@given(address=st.ip_addresses(v=4), port=st.none() | st.integers(1, 65535))
def test_an_address_is_taken_only_if_it_is_public(address: ipaddress.IPv4Address, port: int | None) -> None:
    host = f"{address}:{port}" if port else str(address)
    if address.is_global and not address.is_multicast:
        refuse_internal(host, allowed=())
    else:
        with pytest.raises(InvalidRequest):
            refuse_internal(host, allowed=())


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::"]
)
def test_a_public_address_is_one_wrapped_or_not(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "address",
    [
        "::1",
        "::",
        "fe80::1",
        "fc00::1",
        "ff02::1",
        "2001:db8::1",
        "::ffff:127.0.0.1",
        "::ffff:224.0.0.1",
        "64:ff9b::a00:1",
        "64:ff9b::a9fe:a9fe",
        "2002:a00:1::",
        "2001:0:4136:e378:8000:63bf:f5ff:fffe",  # Teredo, of 10.0.0.1
    ],
)
def test_any_other_address_is_none(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))
