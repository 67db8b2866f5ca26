"""Network rules between the wire, to CubeAPI and to nodes, and the domain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from appliance.contracts import egress as wire
from appliance.contracts import node_network
from appliance.contracts.master import NewSandbox
from appliance.domain.egress import HeaderRule, Tunnel, TunnelTls
from appliance.domain.egress_proxy import EgressProxy, EgressProxyTls
from appliance.domain.header_rules import Transform
from appliance.domain.network import SandboxNetwork, split_allowed
from appliance.domain.private_rules import PrivateRules
from appliance.domain.sandbox import Sandbox
from appliance.domain.workload_token import WantedToken


def sandbox_network(new: NewSandbox) -> SandboxNetwork:
    return replace(
        egress_network(new),
        allow_public_traffic=new.allow_public_traffic,
        mask_request_host=new.mask_request_host,
        https_ports=new.https_ports,
    )


def egress_network(new: wire.Egress) -> SandboxNetwork:
    return SandboxNetwork(
        allow_internet=new.allow_internet,
        allow_out=new.allow_out,
        deny_out=new.deny_out,
        dns_servers=new.dns_servers,
    )


def private_rules(new: wire.Egress) -> PrivateRules:
    headers = {domain: tuple(Transform(one.headers) for one in rules) for domain, rules in new.rules.items()}
    return PrivateRules(headers, None if new.egress_proxy is None else _proxy(new.egress_proxy))


def _proxy(new: wire.NewEgressProxy) -> EgressProxy:
    tls = None
    if new.tls is not None:
        tls = EgressProxyTls(new.tls.enabled, new.tls.server_name, new.tls.ca_cert)
    return EgressProxy(new.address, new.username, new.password, tls)


def wanted_tokens(new: NewSandbox) -> dict[str, WantedToken]:
    return {name: WantedToken(one.audience, one.token_type) for name, one in new.workload_tokens.items()}


def shown_rules(private: PrivateRules) -> dict[str, tuple[wire.Transform, ...]]:
    """Return header rules as they were given, placeholders for what they name."""
    return {
        domain: tuple(wire.Transform(headers=dict(one.headers)) for one in transforms)
        for domain, transforms in private.headers.items()
    }


def shown_proxy(private: PrivateRules) -> wire.EgressProxy | None:
    """Return the proxy without its password and certificates."""
    proxy = private.proxy
    if proxy is None:
        return None
    tls = None
    if proxy.tls is not None:
        tls = wire.EgressProxyTls(enabled=proxy.tls.enabled, server_name=proxy.tls.server_name)
    return wire.EgressProxy(address=proxy.address, username=proxy.username, tls=tls)


def node_policy(
    sandbox: Sandbox, *, header_rules: Sequence[HeaderRule] = (), tunnel: Tunnel | None = None
) -> node_network.NetworkPolicy:
    """Return the part of a sandbox's rules that its node enforces."""
    network = sandbox.network
    addresses, domains = split_allowed(network.allow_out)
    # A guest that is not held to domains asks whom it likes.
    resolvers = network.dns_servers if domains else None
    return node_network.NetworkPolicy(
        allow_internet=network.allow_internet,
        allow_out=(*addresses, *(resolvers or ())),
        deny_out=network.deny_out,
        allow_domains=domains,
        name_service=resolvers is None,
        header_rules=tuple(
            node_network.HeaderRule(domain=one.domain, headers=dict(one.headers), refusal=one.refusal)
            for one in header_rules
        ),
        tunnel=None if tunnel is None else _tunnel(tunnel),
        revision=sandbox.rules.revision,
    )


def _tunnel(tunnel: Tunnel) -> node_network.Tunnel:
    return node_network.Tunnel(
        host=tunnel.host,
        port=tunnel.port,
        username=tunnel.username,
        password=tunnel.password,
        tls=None if tunnel.tls is None else _tunnel_tls(tunnel.tls),
    )


def _tunnel_tls(tls: TunnelTls) -> node_network.TunnelTls:
    return node_network.TunnelTls(server_name=tls.server_name, ca_cert=tls.ca_cert)
