"""Between the wire and the domain, both ways. Nothing else knows both."""

from __future__ import annotations

import base64
import binascii
from dataclasses import asdict
from datetime import datetime

from appliance.contracts import master as wire
from appliance.contracts import node as node_wire
from appliance.contracts import templates as template_wire
from appliance.contracts.node import (
    BuildLogEntry,
    BuildRequest,
    EndReason,
    HostReport,
    NodeSandbox,
    NodeSandboxState,
    NodeStatus,
    OnTimeout,
)
from appliance.contracts.volumes import VolumeMount
from appliance.cubemaster.mapping_egress import shown_proxy, shown_rules
from appliance.cubemaster.persistence.builds import LogEntry
from appliance.cubemaster.persistence.keys import KeyRecord
from appliance.cubemaster.persistence.nodes import NodeActivity, NodeUsage
from appliance.cubemaster.persistence.paging import PagePosition
from appliance.cubemaster.persistence.sandboxes import Position
from appliance.cubemaster.persistence.snapshots import SnapshotRecord
from appliance.cubemaster.persistence.templates import TemplateRecord
from appliance.domain.build_steps import BuildSource, BuildStep, parse_step, refuse_too_much
from appliance.domain.errors import InvalidRequest
from appliance.domain.ids import NodeId
from appliance.domain.node import Node, NodeState
from appliance.domain.placement import Resources
from appliance.domain.private_rules import PrivateRules
from appliance.domain.registry_login import RegistryLogin
from appliance.domain.sandbox import Observation, Sandbox
from appliance.domain.template import Build, BuildSpec


def sandbox_view(
    sandbox: Sandbox,
    *,
    access_token: str | None,
    traffic_token: str | None = None,
    private: PrivateRules | None = None,
) -> wire.SandboxView:
    private = private or PrivateRules()
    # Built from our own row: `model_construct` spares each create a validation that cannot fail.
    return wire.SandboxView.model_construct(
        sandbox_id=sandbox.sandbox_id,
        team_id=sandbox.team_id,
        template_id=sandbox.template_id,
        build_id=sandbox.build_id,
        alias=sandbox.alias,
        state=wire.SandboxState(sandbox.state),
        started_at=sandbox.started_at,
        end_at=sandbox.end_at,
        vcpus=sandbox.resources.vcpus,
        memory_mib=sandbox.resources.memory_mib,
        disk_size_mib=sandbox.disk_size_mib,
        metadata=dict(sandbox.metadata),
        allow_internet=sandbox.network.allow_internet,
        allow_out=sandbox.network.allow_out,
        deny_out=sandbox.network.deny_out,
        dns_servers=sandbox.network.dns_servers,
        rules=shown_rules(private),
        egress_proxy=shown_proxy(private),
        allow_public_traffic=sandbox.network.allow_public_traffic,
        mask_request_host=sandbox.network.mask_request_host,
        https_ports=sandbox.network.https_ports,
        volumes=tuple(VolumeMount(name=one.name, path=one.path) for one in sandbox.volumes),
        on_timeout=OnTimeout(sandbox.on_timeout),
        auto_resume=sandbox.auto_resume,
        paused_at=sandbox.paused_at,
        filesystem_only=sandbox.filesystem_only,
        envd_version=sandbox.envd_version,
        access_token=access_token,
        traffic_token=traffic_token,
        node_id=sandbox.node_id,
        end_reason=EndReason(sandbox.end.reason) if sandbox.end else None,
        end_detail=sandbox.end.detail if sandbox.end else None,
        ended_at=sandbox.end.at if sandbox.end else None,
    )


def observation(seen: NodeSandbox) -> Observation:
    return Observation(
        paused=seen.state is NodeSandboxState.PAUSED,
        generation=seen.generation,
        paused_at=seen.paused_at,
        filesystem_only=seen.filesystem_only,
        address=seen.address,
    )


def cursor_of(position: Position | None) -> str | None:
    if position is None:
        return None
    return _encoded(position.started_at, position.sandbox_id)


def position_of(cursor: str | None) -> Position | None:
    if cursor is None:
        return None
    return Position(*_decoded(cursor))


def page_cursor(position: PagePosition | None) -> str | None:
    return None if position is None else _encoded(position.at, position.key)


def page_position(cursor: str | None) -> PagePosition | None:
    return None if cursor is None else PagePosition(*_decoded(cursor))


def _encoded(at: datetime, key: str) -> str:
    return base64.urlsafe_b64encode(f"{at.isoformat()}__{key}".encode()).decode()


def _decoded(cursor: str) -> tuple[datetime, str]:
    try:
        at, _, key = base64.urlsafe_b64decode(cursor).decode().partition("__")
        return aware(datetime.fromisoformat(at)), key
    except (binascii.Error, UnicodeDecodeError, ValueError) as error:
        raise InvalidRequest("invalid cursor; use the one a page came with") from error


def aware(at: datetime) -> datetime:
    if at.tzinfo is None:
        raise InvalidRequest(f"the time {at.isoformat()} has no time zone; add one, such as Z")
    return at


def key_view(key: KeyRecord) -> wire.KeyView:
    return wire.KeyView(
        key_id=key.key_id,
        team=key.team_slug,
        team_id=key.team_id,
        name=key.name,
        mask=key.mask,
        scopes=_scopes(key),
        created_at=key.created_at,
        expires_at=key.expires_at,
        last_used_at=key.last_used_at,
    )


def created_key(key: KeyRecord, secret: str) -> wire.CreatedKey:
    return wire.CreatedKey(**key_view(key).model_dump(), key=secret)


def resolved_key(key: KeyRecord) -> wire.ResolvedKey:
    return wire.ResolvedKey(
        key_id=key.key_id,
        team_id=key.team_id,
        team_slug=key.team_slug,
        scopes=_scopes(key),
        expires_at=key.expires_at,
    )


def _scopes(key: KeyRecord) -> tuple[str, ...] | None:
    return None if key.scopes is None else tuple(sorted(key.scopes))


def build_spec(new: template_wire.NewTemplate) -> BuildSpec:
    return BuildSpec(
        image=new.image,
        registry_login=_login(new.registry),
        resources=Resources(new.vcpus, new.memory_mib),
        writable_layer_mib=new.writable_layer_mib,
        start_cmd=new.start_cmd,
        ready_cmd=new.ready_cmd,
        probe_port=new.probe_port,
        exposed_ports=new.exposed_ports,
    )


def build_request(build: Build) -> BuildRequest:
    spec = build.spec
    login = spec.registry_login
    return BuildRequest(
        template_id=build.template_id,
        build_id=build.build_id,
        image=spec.image,
        from_build=spec.from_build,
        steps=None if spec.steps is None else tuple(_step(one) for one in spec.steps),
        force=spec.force,
        registry=node_wire.RegistryLogin.model_validate(asdict(login)) if login else None,
        vcpus=spec.resources.vcpus,
        memory_mib=spec.resources.memory_mib,
        writable_layer_mib=spec.writable_layer_mib,
        start_cmd=spec.start_cmd,
        ready_cmd=spec.ready_cmd,
        probe_port=spec.probe_port,
        exposed_ports=spec.exposed_ports,
    )


def _login(told: node_wire.RegistryLogin | None) -> RegistryLogin | None:
    return RegistryLogin(told.username, told.password, told.aws_region) if told is not None else None


def _step(step: BuildStep) -> node_wire.BuildStep:
    return node_wire.BuildStep(type=step.type, args=step.args, files_hash=step.files_hash, force=step.force)


def build_source(start: template_wire.BuildStart) -> BuildSource:
    """Return what a client asks for, each step checked, or raise InvalidRequest."""
    steps = tuple(
        parse_step(number, one.type, one.args, files_hash=one.files_hash, force=one.force)
        for number, one in enumerate(start.steps, 1)
    )
    refuse_too_much(steps)
    return BuildSource(
        image=start.image,
        template=start.template,
        registry_login=_login(start.registry),
        steps=steps,
        force=start.force,
        start_cmd=start.start_cmd,
        ready_cmd=start.ready_cmd,
    )


def build_view(
    build: Build, logs: tuple[BuildLogEntry, ...] = (), *, reason_logs: tuple[BuildLogEntry, ...] = ()
) -> template_wire.BuildView:
    return template_wire.BuildView(
        template_id=build.template_id,
        build_id=build.build_id,
        status=template_wire.BuildStatus(build.status),
        reason=build.reason,
        step=build.step,
        reason_logs=reason_logs,
        logs=logs,
        created_at=build.created_at,
        finished_at=build.finished_at,
        vcpus=build.spec.resources.vcpus,
        memory_mib=build.spec.resources.memory_mib,
        disk_size_mib=build.disk_size_mib,
        envd_version=build.envd_version,
    )


def log_entry(entry: LogEntry) -> BuildLogEntry:
    return BuildLogEntry(timestamp=entry.at, level=entry.level, message=entry.message, step=entry.step)


def template_view(record: TemplateRecord) -> template_wire.TemplateView:
    build = record.build
    return template_wire.TemplateView(
        template_id=record.template_id,
        build_id=build.build_id,
        team_id=record.team_id,
        team_slug=record.team_slug,
        aliases=record.aliases,
        public=record.public,
        vcpus=build.spec.resources.vcpus,
        memory_mib=build.spec.resources.memory_mib,
        disk_size_mib=build.disk_size_mib or build.spec.writable_layer_mib,
        envd_version=build.envd_version or "",
        status=template_wire.BuildStatus(build.status),
        reason=build.reason,
        image=build.spec.image,
        nodes=record.nodes,
        created_at=record.created_at,
        updated_at=record.updated_at,
        last_spawned_at=record.last_spawned_at,
        spawn_count=record.spawn_count,
        build_count=record.build_count,
    )


def snapshot_view(record: SnapshotRecord) -> wire.SnapshotView:
    return wire.SnapshotView(
        snapshot_id=record.snapshot_id,
        names=(f"{record.team_slug}/{record.name}",) if record.name else (),
        sandbox_id=record.sandbox_id,
        template_id=record.template_id,
        build_id=record.build_id,
        team_slug=record.team_slug,
        taken_at=record.taken_at,
    )


def requested_build(template: TemplateRecord, build: Build) -> template_wire.RequestedBuild:
    return template_wire.RequestedBuild(template=template_view(template), build_id=build.build_id, tags=build.tags)


def node_from_status(status: NodeStatus, *, now: datetime) -> Node:
    return Node(
        node_id=NodeId(status.node_id),
        state=NodeState.READY if status.ready else NodeState.NOT_READY,
        detail=status.detail,
        endpoint=status.endpoint,
        version=status.version,
        boot_id=status.boot_id,
        vmm=status.vmm,
        accelerator=status.accelerator,
        capacity=Resources(status.vcpus, status.memory_mib),
        disk_free_mib=status.disk_free_mib,
        last_heartbeat_at=now,
    )


def node_view(usage: NodeUsage, activity: NodeActivity) -> wire.NodeView:
    node = usage.node
    return wire.NodeView(
        node_id=node.node_id,
        state=node.state.value,
        detail=node.detail,
        endpoint=node.endpoint,
        version=node.version,
        vmm=node.vmm,
        accelerator=node.accelerator,
        vcpus=node.capacity.vcpus,
        vcpus_reserved=usage.reserved.vcpus,
        memory_mib=node.capacity.memory_mib,
        memory_reserved_mib=usage.reserved.memory_mib,
        disk_free_mib=node.disk_free_mib,
        sandboxes=usage.sandboxes,
        last_heartbeat_at=node.last_heartbeat_at,
        draining=usage.draining,
        status_changed_at=usage.status_changed_at,
        boot_id=node.boot_id,
        host=None if usage.host is None else HostReport.model_validate(usage.host),
        starting=activity.starting,
        started_lately=activity.started,
        failed_lately=activity.failed,
    )
