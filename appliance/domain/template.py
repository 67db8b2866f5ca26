"""Templates: how one is named, and the life of a build.

A reference is `[namespace/]name[:tag]`, or a template id in place of the name. The namespace is a team's slug.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from appliance.domain.build_steps import BuildStep
from appliance.domain.errors import Conflict, InvalidRequest
from appliance.domain.ids import BuildId, NodeId, SandboxId, TemplateId
from appliance.domain.placement import Resources
from appliance.domain.registry_login import RegistryLogin

DEFAULT_TAG = "default"
LOG_LEVELS = ("debug", "info", "warn", "error")
"""From the lowest."""
_NAME_MAX_LENGTH = 128
_NAME = re.compile(r"[a-z0-9_-]+")
_TAG = re.compile(r"[a-z0-9_.-]+")


class TemplateKind(StrEnum):
    TEMPLATE = "template"
    SNAPSHOT = "snapshot"
    """What a caller kept of a sandbox. Started and deleted as a template, but in no list of templates."""
    FORK = "fork"
    """What a fork starts its copies from: known to nobody, and deleted when they have started."""


class BuildStatus(StrEnum):
    WAITING = "waiting"
    """A draft: asked for, and without anything to build from yet. Nobody works on it."""
    BUILDING = "building"
    """From when it is known what to build, whether or not a node has it yet."""
    READY = "ready"
    ERROR = "error"


BUILD_TRANSITIONS: Mapping[BuildStatus, frozenset[BuildStatus]] = {
    BuildStatus.WAITING: frozenset({BuildStatus.BUILDING, BuildStatus.ERROR}),
    BuildStatus.BUILDING: frozenset({BuildStatus.READY, BuildStatus.ERROR}),
    BuildStatus.READY: frozenset(),
    BuildStatus.ERROR: frozenset(),
}


class ReplicaState(StrEnum):
    """A build on one node."""

    BUILDING = "building"
    READY = "ready"
    ERROR = "error"
    DELETING = "deleting"
    """Its template was deleted; the node has yet to free it."""


def build_status(replicas: Collection[ReplicaState]) -> BuildStatus:
    """Return what the replicas of a build that was handed out make of it.

    One node that is still at work keeps it building, so that READY means that every node has had its say; one that
    succeeded is enough to use the template.
    """
    if ReplicaState.BUILDING in replicas or not replicas:
        return BuildStatus.BUILDING
    return BuildStatus.READY if ReplicaState.READY in replicas else BuildStatus.ERROR


@dataclass(frozen=True, slots=True)
class BuildSpec:
    """What a build is made from and must become. A draft has neither `image` nor `from_build`, any other has one."""

    image: str | None
    registry_login: RegistryLogin | None
    resources: Resources
    writable_layer_mib: int
    from_build: BuildId | None = None
    """A READY build whose disk it starts from, on the nodes that hold that."""
    steps: tuple[BuildStep, ...] | None = None
    """None for an image as it is: E2B's rules for what is around the steps do not hold for it."""
    force: bool = False
    """Use no step of an earlier build."""
    start_cmd: str | None = None
    ready_cmd: str | None = None
    probe_port: int | None = None
    exposed_ports: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Build:
    build_id: BuildId
    template_id: TemplateId
    tags: tuple[str, ...]
    """The tags that point here once it is READY."""
    status: BuildStatus
    spec: BuildSpec
    created_at: datetime
    started_at: datetime | None = None
    """When it became known what to build: deadlines count from here."""
    finished_at: datetime | None = None
    reason: str | None = None
    step: str | None = None
    disk_size_mib: int | None = None
    envd_version: str | None = None
    source_sandbox_id: SandboxId | None = None
    """The sandbox that it was taken of, on that sandbox's node."""

    def started(self, spec: BuildSpec, *, at: datetime) -> Build:
        """Return the draft BUILDING, now that it is known what."""
        return replace(self._to(BuildStatus.BUILDING), spec=spec, started_at=at)

    def ready(self, *, at: datetime) -> Build:
        return replace(self._to(BuildStatus.READY), finished_at=at)

    def failed(self, reason: str, *, step: str | None, at: datetime) -> Build:
        return replace(self._to(BuildStatus.ERROR), reason=reason, step=step, finished_at=at)

    def _to(self, status: BuildStatus) -> Build:
        if status not in BUILD_TRANSITIONS[self.status]:
            raise Conflict(f"build '{self.build_id}' is '{self.status}' and cannot become '{status}'")
        if BUILD_TRANSITIONS[status]:
            return replace(self, status=status)
        # What may hold secrets, and nobody needs any more, is not kept.
        steps = None if self.spec.steps is None else ()
        return replace(self, status=status, spec=replace(self.spec, registry_login=None, steps=steps))


@dataclass(frozen=True, slots=True)
class Replica:
    """A build on one node, as CubeMaster records it."""

    node_id: NodeId
    build_id: BuildId
    state: ReplicaState
    log_offset: int = 0
    """Log entries taken from the node so far."""
    attempt: int = 0
    """How often the node was asked to build it: a node that forgot is asked once more."""
    reason: str | None = None
    step: str | None = None


@dataclass(frozen=True, slots=True)
class TemplateReference:
    name: str
    """An alias, or a template id."""
    namespace: str | None = None
    tag: str = DEFAULT_TAG

    def __str__(self) -> str:
        space = f"{self.namespace}/" if self.namespace else ""
        tag = f":{self.tag}" if self.tag != DEFAULT_TAG else ""
        return f"{space}{self.name}{tag}"


def parse_reference(text: str) -> TemplateReference:
    """Return the reference in `text`, which may have surrounding space and capitals, or raise InvalidRequest."""
    before_tag, colon, tag = text.strip().lower().partition(":")
    namespace, slash, name = before_tag.rpartition("/")
    if not _NAME.fullmatch(name) or (slash and not _NAME.fullmatch(namespace)):
        raise InvalidRequest(f"invalid template name '{text}': use [team/]name[:tag], of letters, digits, '-' and '_'")
    if colon and (not _TAG.fullmatch(tag) or _is_uuid(tag)):
        raise InvalidRequest(
            f"invalid tag in '{text}': use letters, digits, '-', '_' and '.', and not the form of a UUID"
        )
    return TemplateReference(name=name, namespace=namespace or None, tag=tag or DEFAULT_TAG)


def parse_build_name(name: str, tags: Sequence[str]) -> tuple[TemplateReference, tuple[str, ...]]:
    """Return the name of a template to build, and every tag that shall point to the build: `default` without any."""
    if not name.strip():
        raise InvalidRequest("Name is required")
    try:
        named = parse_reference(name)
    except InvalidRequest as error:
        raise InvalidRequest(f"Invalid name: {error.message}") from error
    if len(named.name) > _NAME_MAX_LENGTH:
        raise InvalidRequest(f"Invalid name: a template's name has at most {_NAME_MAX_LENGTH} characters")
    in_name = (named.tag,) if ":" in name else ()
    wanted = tuple(dict.fromkeys((*in_name, *(parse_tag(tag) for tag in tags)))) or (DEFAULT_TAG,)
    for tag in wanted:
        if len(tag) > _NAME_MAX_LENGTH:
            raise InvalidRequest(f"Invalid tag: a tag has at most {_NAME_MAX_LENGTH} characters")
    return named, wanted


def parse_tag(text: str) -> str:
    """Return the tag in `text`, which may have surrounding space and capitals, or raise InvalidRequest."""
    tag = text.strip().lower()
    if not _TAG.fullmatch(tag) or _is_uuid(tag):
        raise InvalidRequest(
            f"Invalid tag: '{text}': use letters, digits, '-', '_' and '.', and not the form of a UUID"
        )
    return tag


def levels_from(lowest: str | None) -> tuple[str, ...] | None:
    """Return the levels of log entries from `lowest` up, or None where all are meant."""
    return None if lowest is None else LOG_LEVELS[LOG_LEVELS.index(lowest) :]


def _is_uuid(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True
