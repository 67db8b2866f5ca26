"""What a sandbox may reach and who may reach it, as a caller writes it, checked and turned into networks."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv4Network, NetmaskValueError

from appliance.domain.errors import InvalidRequest

ALL_TRAFFIC = "0.0.0.0/0"
"""How SDKs write "everything" in a list of denied networks."""
MAX_ENTRIES = 256
"""Of each list: the switch has room for a bounded number over all sandboxes of a node."""
MAX_DNS_SERVERS = 10
_MAX_HOST_LENGTH = 253
"""Of a domain as well."""
AGENT_PORT = 49983
"""Of each guest: its agent speaks plain HTTP there."""
MAX_HTTPS_PORTS = 64
"""The proxy reads them with each request."""

# The placeholder may stand in a label of the host, or as the port.
_LABEL = r"(?:[A-Za-z0-9_-]|\$\{PORT\})+"
_MASK = re.compile(rf"(?P<host>{_LABEL}(?:\.{_LABEL})*)(?::(?P<port>\d{{1,5}}|\$\{{PORT\}}))?")
# `example.com`, `*.example.com` or `*`. The last label is no number, which tells a domain from an address.
_DOMAIN = re.compile(r"\*|(?:\*\.)?(?:[A-Za-z0-9_-]+\.)*[A-Za-z][A-Za-z0-9-]*\.?")
_DOMAINS_NEED_DENY_ALL = (
    "When specifying allowed domains in allow out, you must include 'ALL_TRAFFIC' in deny out"
    " to block all other traffic."
)


@dataclass(frozen=True, slots=True)
class SandboxNetwork:
    """The rules of one sandbox, kept with it over pause and resume."""

    allow_internet: bool = True
    allow_out: tuple[str, ...] = ()
    """IPv4 addresses, CIDRs and domains, as the caller gave them; they beat `deny_out`."""
    deny_out: tuple[str, ...] = ()
    allow_public_traffic: bool = True
    """False: the proxy demands the sandbox's traffic token."""
    mask_request_host: str | None = None
    """What services in the sandbox see as the host, `${PORT}` standing for the port."""
    dns_servers: tuple[str, ...] | None = None
    """IPv4 addresses that it may reach beside its domains, in place of the node's resolver; without domains they mean
    nothing. None: the node's."""
    https_ports: tuple[int, ...] = ()
    """Ports whose services speak TLS themselves: the proxy does so too there, and takes any certificate."""


def parse_networks(entries: Iterable[str], *, kind: str) -> tuple[IPv4Network, ...]:
    """Return the networks of IPv4 addresses or CIDRs. `kind` is `allowed address` or `denied CIDR`, for the error."""
    networks = []
    for entry in entries:
        try:
            if "." in entry.partition("/")[2]:
                raise ValueError("a mask, where a prefix length belongs")
            networks.append(IPv4Network(entry, strict=False))
        except (AddressValueError, NetmaskValueError, ValueError) as error:
            raise InvalidRequest(f"invalid {kind} {entry}") from error
    return tuple(networks)


def parse_domains(entries: Iterable[str]) -> tuple[str, ...]:
    """Return domains in the form in which they are compared: lower case, no final dot."""
    domains = []
    for entry in entries:
        if not is_domain(entry):
            raise InvalidRequest(f"invalid allowed address {entry}")
        domains.append(entry.lower().removesuffix("."))
    return tuple(domains)


def is_domain(entry: str) -> bool:
    return len(entry) <= _MAX_HOST_LENGTH and _DOMAIN.fullmatch(entry) is not None


def split_allowed(entries: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the addresses and CIDRs of an `allowOut`, and its domains, each in their order."""
    kept = tuple(entries)
    return tuple(e for e in kept if not is_domain(e)), tuple(e for e in kept if is_domain(e))


def check_network(network: SandboxNetwork) -> None:
    """Raise InvalidRequest where a rule is none. The texts are E2B's."""
    for field, entries in (("network.allowOut", network.allow_out), ("network.denyOut", network.deny_out)):
        if len(entries) > MAX_ENTRIES:
            raise InvalidRequest(f"{field} can have at most {MAX_ENTRIES} entries; merge neighbouring networks")
    denied = parse_networks(network.deny_out, kind="denied CIDR")
    addresses, domains = split_allowed(network.allow_out)
    parse_networks(addresses, kind="allowed address")
    if domains and IPv4Network(ALL_TRAFFIC) not in denied:
        raise InvalidRequest(_DOMAINS_NEED_DENY_ALL)
    if network.mask_request_host is not None:
        check_mask(network.mask_request_host)
    _check_dns_servers(network.dns_servers or ())
    _check_https_ports(network.https_ports)


def _check_dns_servers(servers: tuple[str, ...]) -> None:
    if len(servers) > MAX_DNS_SERVERS:
        raise InvalidRequest(f"network.dnsServers can have at most {MAX_DNS_SERVERS} entries")
    for server in servers:
        try:
            IPv4Address(server)
        except AddressValueError as error:
            raise InvalidRequest(f"invalid DNS server {server}: give an IPv4 address") from error


def check_mask(mask: str) -> None:
    """Raise InvalidRequest unless `mask` is `host[:port]`, in which `${PORT}` may stand for the port."""
    if not mask.isascii():
        raise InvalidRequest(f"mask request host '{mask}' is not ASCII. Please use ASCII characters only.")
    match = _MASK.fullmatch(mask)
    port = match["port"] if match else None
    is_port = port is None or port == "${PORT}" or 1 <= int(port) <= 65535
    if match is None or len(match["host"]) > _MAX_HOST_LENGTH or not is_port:
        raise InvalidRequest(f"mask request host is not valid: {mask}")


def _check_https_ports(ports: Collection[int]) -> None:
    if len(ports) > MAX_HTTPS_PORTS:
        raise InvalidRequest(f"network.httpsPorts can have at most {MAX_HTTPS_PORTS} entries")
    for port in ports:
        if not 1 <= port <= 65535:
            raise InvalidRequest(f"network.httpsPorts: {port} is not a port; use 1 to 65535")
        if port == AGENT_PORT:
            raise InvalidRequest(
                f"network.httpsPorts: {port} is the port of the sandbox's agent, which serves plain HTTP; leave it out"
            )
