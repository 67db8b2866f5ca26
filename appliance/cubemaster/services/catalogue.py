"""Which template a caller means, and whether sandboxes can start from it."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from datetime import timedelta

from appliance.common.clock import Clock
from appliance.cubemaster.persistence.unit_of_work import UnitOfWork
from appliance.domain.errors import Forbidden, NotFound, TemplateNotFound, TemplateNotReady
from appliance.domain.ids import BuildId, TeamId, TemplateId
from appliance.domain.placement import Resources
from appliance.domain.template import DEFAULT_TAG, BuildStatus, parse_reference

_REMEMBERED = 1024
_MISSING = {
    "mcp-gateway": "the appliance has none of its own, and SDKs ask for it where a sandbox is made with `mcp` and no "
    "template; build one of that name with a program `mcp-gateway` that takes --config '<json>', is started as root by "
    "the SDK, serves MCP on port 50005 and keeps its token in /etc/mcp-gateway/.token (docs/mcp-gateway.md says how)"
}
"""What to say besides of templates that E2B has and an appliance has once somebody built them."""


@dataclass(frozen=True, slots=True)
class StartableTemplate:
    template_id: TemplateId
    build_id: BuildId
    alias: str | None
    resources: Resources
    writable_layer_mib: int
    disk_size_mib: int
    envd_version: str


class Catalogue:
    """Resolves references inside the caller's transaction, and remembers what could be started for `fresh_for`.

    A memory that is out of date does no harm: the reservation demands that the build is still there.
    """

    def __init__(self, clock: Clock, *, fresh_for: timedelta = timedelta(seconds=1)) -> None:
        self._clock = clock
        self._fresh_for_s = fresh_for.total_seconds()
        self._known: OrderedDict[tuple[str, str], tuple[float, StartableTemplate]] = OrderedDict()

    def startable(self, uow: UnitOfWork, reference: str, *, team_id: TeamId) -> StartableTemplate:
        """Return the template, or raise TemplateNotFound or TemplateNotReady."""
        key, at = (team_id, reference), self._clock.monotonic()
        known = self._known.get(key)
        if known is not None and at - known[0] < self._fresh_for_s:
            return known[1]
        template = self._startable(uow, reference, team_id=team_id)
        # Transactions run on several threads; each of these steps is safe against the others.
        self._known.pop(key, None)
        self._known[key] = (at, template)
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return template

    def forget(self) -> None:
        """Remember nothing: what a reference means has just been changed by somebody who may use it at once."""
        self._known.clear()

    def find(self, uow: UnitOfWork, reference: str, *, team_id: str | None) -> TemplateId:
        """Return the id of the template that the reference leads to, ready or not, or raise TemplateNotFound."""
        named = uow.templates.resolve(parse_reference(reference), team_id=team_id)
        if named is None:
            raise TemplateNotFound(reference)
        return named.template_id

    def own(self, uow: UnitOfWork, reference: str, *, team_id: str | None) -> TemplateId:
        """Return the id of a template that the team may change; None stands for the operator, who may change any."""
        template_id = self.find(uow, reference, team_id=team_id)
        if team_id is not None and not uow.templates.owned(template_id, team_id):
            raise Forbidden(f"You don't have access to sandbox template '{reference}'")
        return template_id

    def _startable(self, uow: UnitOfWork, reference: str, *, team_id: TeamId) -> StartableTemplate:
        parsed = parse_reference(reference)
        named = uow.templates.resolve(parsed, team_id=team_id)
        if named is None:
            raise TemplateNotFound(reference, _MISSING.get(parsed.name, ""))
        build = named.build
        if build is None:
            # Tags move when a build is READY. One without a target is still being built, failed, or never was.
            newest = uow.builds.newest(named.template_id, tag=parsed.tag)
            if newest is not None and newest.status is not BuildStatus.READY:
                raise TemplateNotReady(reference, newest.status, newest.reason)
            raise NotFound(f"tag '{parsed.tag}' does not exist for template '{replace(parsed, tag=DEFAULT_TAG)}'")
        return StartableTemplate(
            template_id=named.template_id,
            build_id=build.build_id,
            alias=named.alias,
            resources=build.spec.resources,
            writable_layer_mib=build.spec.writable_layer_mib,
            disk_size_mib=build.disk_size_mib or build.spec.writable_layer_mib,
            envd_version=build.envd_version or "",
        )
