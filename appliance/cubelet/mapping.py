"""Wire shapes of `contracts/node.py` from and to this process's own."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence

from appliance.contracts import node_network
from appliance.contracts.node import (
    CreateSandbox,
    MetricSample,
    NodeSandbox,
    NodeSandboxState,
    Resume,
    Rollback,
)
from appliance.contracts.node_network import NetworkPolicy
from appliance.contracts.node_volumes import MAX_VOLUMES, NodeVolume, NodeVolumeMount
from appliance.cubelet.runtime import AttachedVolume, Stage, VmRecord
from appliance.cubelet.services.resuming import Wanted
from appliance.cubelet.services.rollbacks import Goal
from appliance.cubelet.services.sampler import Sample
from appliance.cubelet.services.sandboxes import NewSandbox
from appliance.cubelet.services.volume_store import Volume
from appliance.cubevs.base import EgressPolicy
from appliance.domain.egress import HeaderRule, Tunnel, TunnelTls
from appliance.domain.errors import InvalidRequest
from appliance.domain.ids import BuildId, SandboxId, VolumeId
from appliance.domain.network import parse_domains, parse_networks

_STATES = {
    Stage.CREATING: NodeSandboxState.CREATING,
    Stage.PAUSED: NodeSandboxState.PAUSED,
    # Until it runs, it is paused; until it is saved, it runs.
    Stage.RESUMING: NodeSandboxState.PAUSED,
}
_WITH_VM = (Stage.CREATING, Stage.RUNNING, Stage.PAUSING, Stage.ENDING)


def new_sandbox(sandbox_id: str, body: CreateSandbox) -> NewSandbox:
    """Return the create as the service takes it. Raises InvalidRequest for addresses that are none."""
    return NewSandbox(
        sandbox_id=SandboxId(sandbox_id),
        build_id=BuildId(body.build_id),
        end_at=body.end_at,
        on_timeout=body.on_timeout,
        env_vars=body.env_vars,
        access_token=body.access_token,
        egress=egress_policy(body.network),
        volumes=_volumes(body.volumes),
    )


def _volumes(mounts: Sequence[NodeVolumeMount]) -> tuple[AttachedVolume, ...]:
    """Return volumes in the order of their slots. Raises InvalidRequest."""
    if len(mounts) > MAX_VOLUMES:
        raise InvalidRequest(f"a sandbox can have {MAX_VOLUMES} volumes, not {len(mounts)}")
    for names, what in (([one.volume_id for one in mounts], "volume"), ([one.path for one in mounts], "path")):
        if len(set(names)) < len(names):
            raise InvalidRequest(f"a {what} cannot be mounted twice in one sandbox")
    for one in mounts:
        if not one.path.startswith("/") or one.path != posixpath.normpath(one.path) or one.path.strip("/") == "":
            raise InvalidRequest(f"a volume cannot be mounted at '{one.path}': give a clean, absolute path below /")
    return tuple(AttachedVolume(volume_id=VolumeId(one.volume_id), path=one.path) for one in mounts)


def node_volume(volume: Volume, sandbox_id: SandboxId | None) -> NodeVolume:
    return NodeVolume(
        volume_id=volume.volume_id, size_mib=volume.size_mib, used_mib=volume.used_mib, sandbox_id=sandbox_id
    )


def wanted(body: Resume) -> Wanted:
    """Return the resume as the service takes it. Raises InvalidRequest for addresses that are none."""
    return Wanted(
        end_at=body.end_at,
        on_timeout=body.on_timeout,
        memory=body.memory,
        access_token=body.access_token,
        egress=egress_policy(body.network),
    )


def goal(body: Rollback) -> Goal:
    """Return the rollback as the service takes it. Raises InvalidRequest for addresses that are none."""
    return Goal(build_id=BuildId(body.build_id), access_token=body.access_token, egress=egress_policy(body.network))


def egress_policy(network: NetworkPolicy) -> EgressPolicy:
    """Return the policy for the switch. Raises InvalidRequest for addresses and domains that are none."""
    return EgressPolicy(
        allow_internet=network.allow_internet,
        allow=parse_networks(network.allow_out, kind="allowed address"),
        deny=parse_networks(network.deny_out, kind="denied CIDR"),
        allow_domains=parse_domains(network.allow_domains),
        name_service=network.name_service,
        header_rules=tuple(HeaderRule(one.domain, one.headers, one.refusal) for one in network.header_rules),
        tunnel=None if network.tunnel is None else _tunnel(network.tunnel),
        revision=network.revision,
    )


def _tunnel(tunnel: node_network.Tunnel) -> Tunnel:
    tls = None if tunnel.tls is None else TunnelTls(tunnel.tls.server_name, tunnel.tls.ca_cert)
    return Tunnel(host=tunnel.host, port=tunnel.port, username=tunnel.username, password=tunnel.password, tls=tls)


def node_sandbox(record: VmRecord, *, sampled: bool, changing: bool = False) -> NodeSandbox:
    sandbox = record.sandbox
    if sandbox is None:
        raise ValueError(f"VM {record.vm_id} has no sandbox")
    return NodeSandbox(
        sandbox_id=sandbox.sandbox_id,
        template_id=record.template_id,
        build_id=record.build_id,
        state=_STATES.get(record.stage, NodeSandboxState.RUNNING),
        generation=record.generation,
        paused_at=record.paused_at,
        filesystem_only=record.filesystem_only,
        address=str(record.address) if record.stage in _WITH_VM and record.address is not None else None,
        started_at=sandbox.started_at,
        end_at=sandbox.end_at,
        envd_version=record.envd_version,
        pooled=sandbox.pooled,
        changing=changing,
        network_revision=sandbox.network_revision,
        sampled=sampled,
    )


def metric_sample(sample: Sample) -> MetricSample:
    return MetricSample(
        at=sample.at,
        cpu_count=sample.usage.cpu_count,
        cpu_used_pct=sample.usage.cpu_used_pct,
        memory_used_bytes=sample.usage.memory_used,
        memory_total_bytes=sample.usage.memory_total,
        memory_cache_bytes=sample.usage.memory_cache,
        disk_used_bytes=sample.usage.disk_used,
        disk_total_bytes=sample.usage.disk_total,
    )
