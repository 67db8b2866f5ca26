"""Why the proxy refuses, or ends, a connection: shared by its answers, its metrics and its tests."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    NO_POLICY = "no_policy"
    """Nothing is published for the address the connection came from."""
    TOO_MANY = "too_many"
    """The sandbox, or the node, has as many connections as it may."""
    LATE = "late"
    """The guest did not say in time what it wants."""
    MALFORMED = "malformed"
    """Not TLS on the TLS port, not HTTP/1 on the other, or not strictly so."""
    UNNAMED = "unnamed"
    """The guest does not say which name it wants, or says an address, and no rule allows where it sent that."""
    HIDDEN_NAME = "hidden_name"
    """The guest sends a second, encrypted ClientHello, whose name nobody can check."""
    DOMAIN = "domain"
    """No rule allows the name."""
    UNRESOLVED = "unresolved"
    ADDRESS = "address"
    """The name leads only to addresses that are not public, are the node's own, or are denied."""
    UPSTREAM = "upstream"
    """Nothing answers at the name's addresses, or the sandbox's SOCKS5 proxy says so."""
    TUNNEL = "tunnel"
    """The sandbox's SOCKS5 proxy does not do its part. Nothing leaves past it."""
    UNVERIFIED = "unverified"
    """Who answers there cannot show that it is the name, and gets no headers."""
    UNTRUSTED = "untrusted"
    """The guest does not take the certificate that it is shown for a name whose requests get headers."""
    HEADERS = "headers"
    """The rule for the name's headers lets nothing pass, or cannot be carried out."""
    POLICY_CHANGED = "policy_changed"
    """Cut: what was allowed when it was opened no longer is."""
    IDLE = "idle"
    """Cut: neither side said anything for too long."""


class Refused(Exception):
    """`detail` is for the guest: one sentence that says what to do."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
