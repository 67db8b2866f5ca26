"""A tenant's own SOCKS5 proxy, as a caller names it. What its name leads to is looked at where it is dialled."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address

from appliance.domain.egress import Tunnel, TunnelTls
from appliance.domain.errors import InvalidRequest
from appliance.domain.network import is_domain
from appliance.domain.registry_hosts import is_internal

_MAX_CREDENTIAL_BYTES = 255
"""Of a SOCKS5 username or password: RFC 1929."""
_MAX_SERVER_NAME = 253
_MAX_CA_BYTES = 8192


@dataclass(frozen=True, slots=True)
class EgressProxyTls:
    enabled: bool
    server_name: str = ""
    ca_cert: str = field(default="", repr=False)
    """PEM certificates."""


@dataclass(frozen=True, slots=True)
class EgressProxy:
    address: str
    """`host:port`."""
    username: str = ""
    password: str = field(default="", repr=False)
    tls: EgressProxyTls | None = None


def tunnel(proxy: EgressProxy) -> Tunnel:
    """Return the proxy as a node dials it, or raise InvalidRequest. The texts are E2B's as far as it has them."""
    host, port = _endpoint(proxy.address.strip())
    if not proxy.username and proxy.password:
        raise _invalid("egress proxy password must be empty when username is empty")
    for what, text in (("username", proxy.username), ("password", proxy.password)):
        if _size(text, what) > _MAX_CREDENTIAL_BYTES:
            raise _invalid(f"egress proxy {what} must not exceed {_MAX_CREDENTIAL_BYTES} bytes")
    return Tunnel(host, port, proxy.username, proxy.password, _tls(proxy.tls, host))


def _endpoint(address: str) -> tuple[str, int]:
    if not address:
        raise _invalid("egress proxy address must not be empty")
    if address.startswith("[") or _is_ipv6(address):
        raise _invalid("egress proxy address must be a name or an IPv4 address: nodes reach the internet by IPv4")
    host, colon, port = address.rpartition(":")
    host = host.strip().lower().removesuffix(".")
    if not colon or ":" in host:
        raise _invalid("egress proxy address must be in host:port form")
    if not host:
        raise _invalid("egress proxy host must not be empty")
    if not (port.isascii() and port.isdecimal() and len(port) <= 5 and 1 <= int(port) <= 65535):
        raise _invalid("egress proxy port is not a valid 1-65535 value")
    if is_internal(host):
        raise _invalid(f"egress proxy endpoint is an internal / denied address: {host}")
    if not _is_ipv4(host) and (not is_domain(host) or "*" in host):
        raise _invalid("egress proxy host is not a valid domain name or IPv4 address")
    return host, int(port)


def _tls(tls: EgressProxyTls | None, host: str) -> TunnelTls | None:
    if tls is None:
        return None
    if not tls.enabled:
        if tls.server_name or tls.ca_cert:
            raise _invalid("egress proxy tls.serverName and tls.caCert must not be set when tls.enabled is false")
        return None
    server_name = tls.server_name or host
    if len(server_name) > _MAX_SERVER_NAME:
        raise _invalid(f"egress proxy tls.serverName must not exceed {_MAX_SERVER_NAME} characters")
    if not _is_ipv4(server_name) and (not is_domain(server_name) or "*" in server_name):
        raise _invalid("egress proxy tls.serverName is not a valid name")
    if _size(tls.ca_cert, "tls.caCert") > _MAX_CA_BYTES:
        raise _invalid(f"egress proxy tls.caCert must not exceed {_MAX_CA_BYTES} bytes")
    if tls.ca_cert and not _are_certificates(tls.ca_cert):
        raise _invalid("egress proxy tls.caCert must be one or more PEM certificates")
    return TunnelTls(server_name, tls.ca_cert or None)


def _are_certificates(pem: str) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=pem)
    except (ssl.SSLError, ValueError):
        return False
    return True


def _size(text: str, what: str) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError as error:
        raise _invalid(f"egress proxy {what} is not Unicode text") from error


def _is_ipv6(text: str) -> bool:
    try:
        return isinstance(ip_address(text), IPv6Address)
    except ValueError:
        return False


def _is_ipv4(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _invalid(why: str) -> InvalidRequest:
    return InvalidRequest(f"Invalid egress proxy config: {why}")
