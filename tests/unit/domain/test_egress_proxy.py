from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from appliance.domain.egress import Tunnel, TunnelTls
from appliance.domain.egress_proxy import EgressProxy, EgressProxyTls, tunnel
from appliance.domain.errors import InvalidRequest

CANARY = "hunter2"


@pytest.fixture(scope="module")
def certificate() -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "proxy")])
    now = datetime.now(UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1)).sign(key, SHA256())
    return made.public_bytes(Encoding.PEM).decode()


def refusal(proxy: EgressProxy) -> str:
    with pytest.raises(InvalidRequest) as refused:
        tunnel(proxy)
    assert CANARY not in refused.value.message
    return refused.value.message.removeprefix("Invalid egress proxy config: ")


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [
        ("proxy.example.com:1080", "proxy.example.com", 1080),
        (" Proxy.Example.COM.:1 ", "proxy.example.com", 1),
        ("8.8.8.8:65535", "8.8.8.8", 65535),
    ],
)
def test_an_address_is_host_and_port(address: str, host: str, port: int) -> None:
    assert tunnel(EgressProxy(address)) == Tunnel(host, port)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        (" ", "egress proxy address must not be empty"),
        ("proxy.example.com", "egress proxy address must be in host:port form"),
        ("a:b:1080", "egress proxy address must be in host:port form"),
        (":1080", "egress proxy host must not be empty"),
        ("proxy.example.com:0", "egress proxy port is not a valid 1-65535 value"),
        ("proxy.example.com:65536", "egress proxy port is not a valid 1-65535 value"),
        ("proxy.example.com:x", "egress proxy port is not a valid 1-65535 value"),
        ("proxy.example.com:" + "9" * 5000, "egress proxy port is not a valid 1-65535 value"),
        ("a b.com:1080", "egress proxy host is not a valid domain name or IPv4 address"),
        ("*.a.com:1080", "egress proxy host is not a valid domain name or IPv4 address"),
        ("socks5://a.com:1080", "egress proxy address must be in host:port form"),
        *(
            (
                address,
                "egress proxy address must be a name or an IPv4 address: nodes reach the internet by IPv4",
            )
            for address in ("[2606:4700::1111]:1080", "2606:4700::1111", "[::1]:1080")
        ),
        *(
            (f"{host}:1080", f"egress proxy endpoint is an internal / denied address: {host}")
            for host in (
                *("127.0.0.1", "10.1.2.3", "192.168.0.1", "169.254.169.254", "0.0.0.0", "100.64.0.1", "224.0.0.1"),
                *("localhost", "proxy", "a.internal", "127.1", "2130706433"),
            )
        ),
    ],
)
def test_an_address_that_is_none_or_an_internal_one_is_refused(address: str, message: str) -> None:
    assert refusal(EgressProxy(address)) == message


def test_credentials_have_limits() -> None:
    asked = EgressProxy("a.com:1", "u" * 255, "p" * 255)
    assert tunnel(asked) == Tunnel("a.com", 1, "u" * 255, "p" * 255)
    for proxy, message in (
        (EgressProxy("a.com:1", "", CANARY), "egress proxy password must be empty when username is empty"),
        (EgressProxy("a.com:1", "ü" * 128), "egress proxy username must not exceed 255 bytes"),
        (EgressProxy("a.com:1", "u", CANARY * 40), "egress proxy password must not exceed 255 bytes"),
    ):
        assert refusal(proxy) == message
    assert CANARY not in repr(EgressProxy("a.com:1", "u", CANARY))


def test_tls_checks_the_host_unless_it_is_told_another_name(certificate: str) -> None:
    for tls, expected in (
        (None, None),
        (EgressProxyTls(enabled=False), None),
        (EgressProxyTls(enabled=True), TunnelTls("a.com")),
        (EgressProxyTls(True, "b.com", certificate * 2), TunnelTls("b.com", certificate * 2)),
    ):
        assert tunnel(EgressProxy("a.com:1", tls=tls)).tls == expected


@pytest.mark.parametrize(
    ("tls", "message"),
    [
        (
            EgressProxyTls(enabled=False, server_name="a.com"),
            "egress proxy tls.serverName and tls.caCert must not be set when tls.enabled is false",
        ),
        (EgressProxyTls(True, "a" * 254), "egress proxy tls.serverName must not exceed 253 characters"),
        (EgressProxyTls(True, "a b"), "egress proxy tls.serverName is not a valid name"),
        (EgressProxyTls(True, "", "x" * 8193), "egress proxy tls.caCert must not exceed 8192 bytes"),
        (EgressProxyTls(True, "", CANARY), "egress proxy tls.caCert must be one or more PEM certificates"),
        (
            EgressProxyTls(True, "", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
            "egress proxy tls.caCert must be one or more PEM certificates",
        ),
    ],
)
def test_tls_that_cannot_be_is_refused(tls: EgressProxyTls, message: str) -> None:
    assert refusal(EgressProxy("a.com:1", tls=tls)) == message
