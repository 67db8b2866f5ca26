"""Network rules and workload tokens between E2B's public shapes and CubeMaster's."""

from __future__ import annotations

from typing import Any

from appliance.contracts import e2b_network as e2b
from appliance.contracts import egress, master
from appliance.domain.placeholders import names_secret

KEYS_PATH = "/.well-known/jwks.json"


def new_egress(body: e2b.NetworkUpdate, *, team_id: str) -> master.NewEgress:
    """Return the update for CubeMaster: what is left out is cleared."""
    return master.NewEgress(team_id=team_id, **fields_of(body, allow_internet=body.allow_internet_access))


def fields_of(rules: e2b.Egress, *, allow_internet: bool | None) -> dict[str, Any]:
    """Return what CubeMaster calls the fields of `contracts.egress.Egress`."""
    return {
        "allow_internet": allow_internet is not False,
        "allow_out": rules.allowOut or (),
        "deny_out": rules.denyOut or (),
        "dns_servers": rules.dnsServers,
        "rules": {domain: tuple(map(_transform, mine)) for domain, mine in (rules.rules or {}).items()},
        "egress_proxy": None if rules.egressProxy is None else _proxy(rules.egressProxy),
    }


def names_secrets(rules: e2b.Egress) -> bool:
    return any(
        names_secret(value)
        for mine in (rules.rules or {}).values()
        for rule in mine
        for value in _transform(rule).headers.values()
    )


def workload_tokens(iam: e2b.Iam | None) -> dict[str, egress.WorkloadToken]:
    asked = iam.tokens if iam is not None and iam.tokens is not None else {}
    return {name: egress.WorkloadToken(audience=one.audience, token_type=one.tokenType) for name, one in asked.items()}


def network_shown(view: master.SandboxView) -> e2b.NetworkShown:
    rules = {
        domain: tuple(e2b.NetworkRule(transform=e2b.Transform(headers=one.headers)) for one in transforms)
        for domain, transforms in view.rules.items()
    }
    return e2b.NetworkShown(
        allowPublicTraffic=view.allow_public_traffic,
        allowOut=view.allow_out or None,
        denyOut=view.deny_out or None,
        dnsServers=view.dns_servers,
        egressProxy=None if view.egress_proxy is None else _proxy_shown(view.egress_proxy),
        rules=rules or None,
        maskRequestHost=view.mask_request_host,
        httpsPorts=view.https_ports or None,
    )


def openid_configuration(keys: egress.SigningKeys) -> e2b.OpenIdConfiguration:
    return e2b.OpenIdConfiguration(
        issuer=keys.issuer,
        jwks_uri=f"{keys.issuer}{KEYS_PATH}",
        id_token_signing_alg_values_supported=tuple(sorted({key["alg"] for key in keys.keys})),
    )


def _transform(rule: e2b.NetworkRule) -> egress.Transform:
    headers = None if rule.transform is None else rule.transform.headers
    return egress.Transform(headers=headers or {})


def _proxy(proxy: e2b.EgressProxy) -> egress.NewEgressProxy:
    tls = None
    if proxy.tls is not None:
        tls = egress.NewEgressProxyTls(
            enabled=proxy.tls.enabled, server_name=proxy.tls.serverName or "", ca_cert=proxy.tls.caCert or ""
        )
    return egress.NewEgressProxy(
        address=proxy.address, username=proxy.username or "", password=proxy.password or "", tls=tls
    )


def _proxy_shown(proxy: egress.EgressProxy) -> e2b.EgressProxyShown:
    tls = None
    if proxy.tls is not None:
        tls = e2b.EgressProxyTlsShown(enabled=proxy.tls.enabled, serverName=proxy.tls.server_name or None)
    return e2b.EgressProxyShown(address=proxy.address, username=proxy.username or None, tls=tls)
