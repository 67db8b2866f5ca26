from __future__ import annotations

from ipaddress import IPv4Address

import pytest

from guest_agent.auth.peers import InitPeers


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.8.0.9", "169.254.0.21", "0.0.0.0", "::1", "fe80::1", "", "x", None])
def test_the_guest_itself_may_not_init(peer: str | None) -> None:
    assert not InitPeers().admits(peer)


@pytest.mark.parametrize("peer", ["169.254.0.22", "10.88.0.1"])
def test_the_node_may(peer: str) -> None:
    assert InitPeers().admits(peer)


def test_an_allowed_address_may_although_it_is_its_own() -> None:
    peers = InitPeers(allowed=(IPv4Address("127.0.0.1"),))
    assert peers.admits("127.0.0.1")
    assert not peers.admits("127.0.0.2")
