"""Network rules of sandboxes: taken in, kept sealed, and put together for a node with secrets and tokens in place."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import structlog

from appliance.common.clock import Clock
from appliance.contracts.node_network import NetworkPolicy
from appliance.cubemaster.mapping_egress import node_policy
from appliance.cubemaster.persistence.database import Database
from appliance.cubemaster.persistence.unit_of_work import UnitOfWork
from appliance.cubemaster.services.sealing import SealBroken, Sealer, rules_place, secret_place
from appliance.cubemaster.services.workload_tokens import WorkloadTokens
from appliance.domain.egress_proxy import EgressProxy, EgressProxyTls, tunnel
from appliance.domain.errors import InvalidRequest, SandboxNotFound
from appliance.domain.header_rules import Named, Transform, filled
from appliance.domain.ids import SandboxId, TeamId, new_revision
from appliance.domain.private_rules import PrivateRules
from appliance.domain.sandbox import KeptRules, Sandbox, SandboxState
from appliance.domain.workload_token import RENEWED_AFTER

log = structlog.get_logger()


class Policies:
    def __init__(self, database: Database, sealer: Sealer, tokens: WorkloadTokens, clock: Clock) -> None:
        self._database = database
        self._sealer = sealer
        self._tokens = tokens
        self._clock = clock

    def keep(self, uow: UnitOfWork, rules: PrivateRules, named: Named, *, team_id: TeamId) -> KeptRules:
        """Return what is kept of new rules, which name `named`. Raises InvalidRequest where a secret is not there.

        The team is locked, so that none of its secrets changes before the rules are written.
        """
        missing = uow.secrets.missing(named.secrets, team_id=team_id)
        if missing:
            raise InvalidRequest(
                f"Network transform header references the secret '{missing[0]}', which does not exist; create it first"
            )
        return KeptRules(
            revision=new_revision(),
            sealed=bool(rules),
            secrets=named.secrets,
            tokens_due_at=self._clock.now() + RENEWED_AFTER if named.tokens else None,
        )

    def seal(self, rules: PrivateRules, sandbox_id: SandboxId) -> bytes | None:
        """Return the rules as the row of that sandbox keeps them."""
        return self._sealer.seal(json.dumps(asdict(rules)), place=rules_place(sandbox_id)) if rules else None

    def again(self, kept: KeptRules) -> KeptRules:
        """Return what is kept of the same rules of another sandbox."""
        due_at = self._clock.now() + RENEWED_AFTER if kept.tokens_due_at else None
        return replace(kept, revision=new_revision(), tokens_due_at=due_at)

    async def opened(self, sandbox: Sandbox) -> tuple[Sandbox, PrivateRules]:
        """Return it as its row is now, and its rules as they were given."""
        if not sandbox.rules.sealed:
            return sandbox, PrivateRules()
        return await self._database.transact(lambda uow: self._opened(uow, sandbox))

    async def of(self, sandbox: Sandbox) -> NetworkPolicy:
        """Return what its node is to enforce from now on, with the name that the rules have."""
        if not sandbox.rules.sealed:
            return node_policy(sandbox)

        def work(uow: UnitOfWork) -> tuple[Sandbox, PrivateRules, dict[str, tuple[str, int, bytes]]]:
            # The rules before the secrets, whose change names the rules anew.
            now, rules = self._opened(uow, sandbox)
            return now, rules, uow.secrets.named(now.rules.secrets, team_id=now.team_id)

        now, rules, sealed = await self._database.transact(work)
        secrets = self._revealed(sealed)
        named = now.workload_tokens if now.rules.tokens_due_at else {}
        tokens = {name: self._tokens.sign(now, audience) for name, audience in named.items()}
        return node_policy(
            now,
            header_rules=[
                filled(domain, transform.headers, secrets=secrets, tokens=tokens)
                for domain, transforms in rules.headers.items()
                for transform in transforms
                if transform.headers
            ],
            tunnel=None if rules.proxy is None else tunnel(rules.proxy),
        )

    def _opened(self, uow: UnitOfWork, sandbox: Sandbox) -> tuple[Sandbox, PrivateRules]:
        found = uow.sandboxes.find_with_rules(sandbox.sandbox_id)
        if found is None or found[0].state is SandboxState.ENDED:
            raise SandboxNotFound(sandbox.sandbox_id)
        now, sealed = found
        if sealed is None:
            return now, PrivateRules()
        stored = json.loads(self._sealer.open(sealed, place=rules_place(now.sandbox_id)))
        return now, _private_rules(stored)

    def _revealed(self, sealed: Mapping[str, tuple[str, int, bytes]]) -> dict[str, str]:
        """Return the values of those secrets that open; rules that use another one are closed."""
        values = {}
        for name, (secret_id, version, value) in sealed.items():
            try:
                values[name] = self._sealer.open(value, place=secret_place(secret_id, version))
            except SealBroken as error:
                log.error("secret_not_opened", secret_id=secret_id, error=error.message)
        return values


def _private_rules(stored: Mapping[str, Any]) -> PrivateRules:
    headers = {
        domain: tuple(Transform(one["headers"]) for one in transforms)
        for domain, transforms in stored["headers"].items()
    }
    proxy = stored["proxy"]
    if proxy is None:
        return PrivateRules(headers)
    tls = proxy["tls"]
    return PrivateRules(headers, EgressProxy(**{**proxy, "tls": None if tls is None else EgressProxyTls(**tls)}))
