"""What decides a create: whether a sandbox may be, of what, and where. All of it in one transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from appliance.cubemaster.persistence.unit_of_work import UnitOfWork
from appliance.cubemaster.services.catalogue import Catalogue, StartableTemplate
from appliance.cubemaster.services.mounts import attach, find_mounts
from appliance.cubemaster.services.policies import Policies
from appliance.cubemaster.services.quota import Quota
from appliance.domain.errors import NoCapacity
from appliance.domain.header_rules import Named
from appliance.domain.ids import NodeId, TeamId, new_sandbox_id
from appliance.domain.network import SandboxNetwork, check_network
from appliance.domain.placement import Candidate, only, rank
from appliance.domain.private_rules import PrivateRules, check_private
from appliance.domain.sandbox import OnTimeout, Sandbox, SandboxState
from appliance.domain.volume import Mount, WantedMount
from appliance.domain.workload_token import WantedToken, check_tokens


@dataclass(frozen=True, slots=True)
class Wish:
    """A sandbox somebody wants."""

    team_id: TeamId
    template: str
    timeout: timedelta
    metadata: Mapping[str, str]
    env_vars: Mapping[str, str]
    secure: bool
    network: SandboxNetwork
    private: PrivateRules
    workload_tokens: Mapping[str, WantedToken]
    on_timeout: OnTimeout
    auto_resume: bool
    volumes: tuple[WantedMount, ...]
    idempotency_key: str | None


def check_wish(wish: Wish) -> Named:
    """Return the secrets and tokens that its rules name, or raise InvalidRequest where it asks for what cannot be."""
    check_network(wish.network)
    check_tokens(wish.workload_tokens)
    return check_private(wish.private, tokens=wish.workload_tokens)


def intend(
    uow: UnitOfWork,
    wish: Wish,
    named: Named,
    *,
    catalogue: Catalogue,
    policies: Policies,
    quota: Quota,
    now: datetime,
) -> Sandbox:
    """Write the row that says a sandbox shall be, together with the resources it takes."""
    template = catalogue.startable(uow, wish.template, team_id=wish.team_id)
    candidates: Sequence[Candidate] = uow.nodes.candidates(template.build_id)
    found = None
    if wish.volumes:
        uow.keys.lock_team(wish.team_id)
        found = find_mounts(uow, wish.volumes, team_id=wish.team_id)
        candidates = only(found.node_id, candidates)
    ranked = rank(template.resources, disk_mib=template.writable_layer_mib, candidates=candidates)
    sandbox = _intended(
        wish,
        template,
        node_id=ranked[0].node_id,
        volumes=found.mounts if found else (),
        now=now,
    )
    uow.keys.lock_team(wish.team_id)
    sandbox = replace(sandbox, rules=policies.keep(uow, wish.private, named, team_id=wish.team_id))
    # The row first, the node's counters last: every create on a node queues for the latter until it commits.
    uow.sandboxes.add(
        sandbox,
        sealed_rules=policies.seal(wish.private, sandbox.sandbox_id),
        idempotency_key=wish.idempotency_key,
    )
    if found:
        attach(uow, found, sandbox.sandbox_id)
    quota.check(uow, wish.team_id)
    for candidate in ranked:
        if candidate.node_id != sandbox.node_id:
            sandbox = replace(sandbox, node_id=candidate.node_id)
            uow.sandboxes.move(sandbox.sandbox_id, sandbox.node_id)
        if uow.nodes.reserve(sandbox.node_id, template.resources, build_id=template.build_id):
            return sandbox
    raise NoCapacity("other sandboxes took the last free resources; try again, or add a node")


def _intended(
    wish: Wish, template: StartableTemplate, *, node_id: NodeId, volumes: tuple[Mount, ...], now: datetime
) -> Sandbox:
    return Sandbox(
        sandbox_id=new_sandbox_id(),
        team_id=wish.team_id,
        template_id=template.template_id,
        build_id=template.build_id,
        alias=template.alias,
        node_id=node_id,
        state=SandboxState.CREATING,
        resources=template.resources,
        disk_size_mib=template.disk_size_mib,
        envd_version=template.envd_version,
        secure=wish.secure,
        network=wish.network,
        workload_tokens={name: one.audience for name, one in wish.workload_tokens.items()},
        volumes=volumes,
        started_at=now,
        end_at=now + wish.timeout,
        metadata=wish.metadata,
        on_timeout=wish.on_timeout,
        auto_resume=wish.auto_resume,
    )
