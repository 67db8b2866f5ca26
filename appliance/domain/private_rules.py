"""The part of a sandbox's network rules that may hold credentials: header rules and a proxy of the tenant's."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from appliance.domain.egress_proxy import EgressProxy, tunnel
from appliance.domain.errors import InvalidRequest
from appliance.domain.header_rules import DomainRules, Named, check_rules


@dataclass(frozen=True, slots=True)
class PrivateRules:
    headers: DomainRules = field(default_factory=dict, repr=False)
    proxy: EgressProxy | None = None

    def __bool__(self) -> bool:
        return bool(self.headers) or self.proxy is not None


def check_private(rules: PrivateRules, *, tokens: Collection[str]) -> Named:
    """Return the secrets and tokens that the rules name, or raise InvalidRequest. `tokens` are those of the sandbox."""
    named = check_rules(rules.headers)
    for name in named.tokens:
        if name not in tokens:
            raise InvalidRequest(
                f"Network transform header references the workload token '{name}', which is not in the sandbox's"
                " iam.tokens; name it there when the sandbox is created"
            )
    if rules.proxy is not None:
        tunnel(rules.proxy)
    return named
