"""E2B's public shapes from and to CubeMaster's."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from urllib.parse import unquote
from uuid import UUID

from appliance.contracts import e2b, e2b_templates, master, templates
from appliance.contracts.e2b_network import Network
from appliance.contracts.node import BuildLogEntry, MetricSample, OnTimeout
from appliance.contracts.volumes import VolumeMount
from appliance.cubeapi.mapping_network import fields_of, network_shown, workload_tokens
from appliance.domain.errors import InvalidRequest

_SECONDS_PER_HOUR = 3600
_MAX_BULK = 100
_MAX_COPIES = 100
_LEVELS: Mapping[str, e2b.LogLevel] = {"debug": "debug", "warn": "warn", "warning": "warn", "error": "error"}
_SANDBOX_PATH_ID = re.compile(r"([a-z0-9]+)(?:-[a-z0-9]+)?")


PUBLIC_STATES: Mapping[str, tuple[master.SandboxState, ...]] = {
    "running": (
        master.SandboxState.RUNNING,
        master.SandboxState.PAUSING,
        master.SandboxState.SNAPSHOTTING,
        master.SandboxState.ROLLING_BACK,
    ),
    "paused": (master.SandboxState.PAUSED, master.SandboxState.RESUMING),
}
"""What callers know, and what each is inside: a change shows once it is done."""


def sandbox_id(path: str) -> str:
    """Return the id in a path. SDKs before 2.0 call a sandbox `<sandboxID>-<clientID>`."""
    match = _SANDBOX_PATH_ID.fullmatch(path)
    if match is None:
        raise InvalidRequest("Invalid sandbox ID")
    return match[1]


def timeout_s(seconds: int, *, max_hours: int) -> int:
    """Return a create's timeout, or raise InvalidRequest outside of what a team may ask for."""
    if seconds <= 0:
        raise InvalidRequest("Timeout must be greater than 0")
    return _capped(seconds, max_hours)


def new_timeout_s(seconds: int, *, max_hours: int) -> int:
    """Return a later timeout: 0 means that the sandbox ends now."""
    if seconds < 0:
        raise InvalidRequest("Timeout must not be negative")
    return _capped(seconds, max_hours)


def _capped(seconds: int, max_hours: int) -> int:
    if seconds > max_hours * _SECONDS_PER_HOUR:
        raise InvalidRequest(f"Timeout cannot be greater than {max_hours} hours")
    return seconds


def new_sandbox(
    body: e2b.NewSandbox,
    *,
    team_id: str,
    secure: bool,
    default_timeout: int,
    max_hours: int,
    idempotency_key: str | None,
) -> master.NewSandbox:
    """Return the create for CubeMaster."""
    network = body.network or Network()
    if not network.allowPublicTraffic and not secure:
        raise InvalidRequest(
            "You cannot create a sandbox without public access unless you enable secure envd access via 'secure' flag."
        )
    timeout = default_timeout if body.timeout is None else body.timeout
    return master.NewSandbox(
        team_id=team_id,
        template=body.templateID,
        timeout_s=timeout_s(timeout, max_hours=max_hours),
        metadata=body.metadata or {},
        env_vars=body.envVars or {},
        secure=secure,
        **fields_of(network, allow_internet=body.allow_internet_access),
        workload_tokens=workload_tokens(body.iam),
        on_timeout=_on_timeout(body),
        auto_resume=_auto_resume(body),
        allow_public_traffic=network.allowPublicTraffic,
        mask_request_host=network.maskRequestHost,
        https_ports=network.httpsPorts or (),
        volumes=tuple(VolumeMount(name=one.name, path=one.path) for one in body.volumeMounts or ()),
        idempotency_key=idempotency_key,
    )


def _on_timeout(body: e2b.NewSandbox) -> OnTimeout:
    if body.autoPauseMemory is not False:
        return OnTimeout.PAUSE if body.autoPause else OnTimeout.KILL
    if not body.autoPause:
        raise InvalidRequest("autoPauseMemory=false only applies when autoPause is true.")
    if _auto_resume(body):
        raise InvalidRequest(
            "autoPauseMemory=false (filesystem-only auto-pause) cannot be combined with autoResume: a filesystem-only "
            "snapshot cannot be auto-resumed by traffic and must be resumed explicitly."
        )
    return OnTimeout.PAUSE_FILESYSTEM


def _auto_resume(body: e2b.NewSandbox) -> bool:
    return body.autoResume is not None and body.autoResume.enabled


def sandbox(view: master.SandboxView, *, domain: str) -> e2b.Sandbox:
    return e2b.Sandbox(
        templateID=view.template_id,
        sandboxID=view.sandbox_id,
        envdVersion=view.envd_version,
        alias=view.alias,
        envdAccessToken=view.access_token,
        trafficAccessToken=view.traffic_token,
        domain=domain,
    )


def snapshot(view: master.SnapshotView) -> e2b.Snapshot:
    return e2b.Snapshot(snapshotID=view.snapshot_id, names=view.names)


def copies(count: int) -> int:
    """Return how many copies a fork makes, or raise InvalidRequest."""
    if count < 1:
        raise InvalidRequest("Count must be at least 1")
    if count > _MAX_COPIES:
        raise InvalidRequest(f"Count cannot be greater than {_MAX_COPIES}")
    return count


def forked(copy: master.Forked, *, domain: str) -> e2b.Forked:
    return e2b.Forked(
        sandbox=sandbox(copy.sandbox, domain=domain) if copy.sandbox else None,
        error=e2b.ForkError(code=copy.error.code, message=copy.error.message) if copy.error else None,
    )


def listed_sandbox(view: master.SandboxView) -> e2b.ListedSandbox:
    return e2b.ListedSandbox.model_validate(_listed(view))


def sandbox_detail(view: master.SandboxView, *, domain: str) -> e2b.SandboxDetail:
    return e2b.SandboxDetail.model_validate(
        {
            **_listed(view),
            "envdAccessToken": view.access_token,
            "allowInternetAccess": view.allow_internet,
            "domain": domain,
            "network": network_shown(view),
            "lifecycle": e2b.Lifecycle(
                autoResume=view.auto_resume,
                onTimeout="kill" if view.on_timeout is OnTimeout.KILL else "pause",
            ),
            "pauseMode": ("filesystem" if view.filesystem_only else "full") if _is_paused(view) else None,
        }
    )


def _is_paused(view: master.SandboxView) -> bool:
    """Return whether it is paused to callers: until it runs again, it is."""
    return view.state in PUBLIC_STATES["paused"]


def _listed(view: master.SandboxView) -> dict[str, object]:
    return {
        "templateID": view.template_id,
        "sandboxID": view.sandbox_id,
        "alias": view.alias,
        "startedAt": view.started_at,
        "endAt": view.paused_at if _is_paused(view) and view.paused_at else view.end_at,
        "cpuCount": view.vcpus,
        "memoryMB": view.memory_mib,
        "diskSizeMB": view.disk_size_mib,
        "state": "paused" if _is_paused(view) else "running",
        "envdVersion": view.envd_version,
        "metadata": view.metadata,
        "volumeMounts": tuple(e2b.VolumeMount(name=one.name, path=one.path) for one in view.volumes) or None,
    }


def metric(sample: MetricSample) -> e2b.SandboxMetric:
    return e2b.SandboxMetric(
        timestamp=sample.at,
        timestampUnix=int(sample.at.timestamp()),
        cpuCount=sample.cpu_count,
        cpuUsedPct=sample.cpu_used_pct,
        memUsed=sample.memory_used_bytes,
        memTotal=sample.memory_total_bytes,
        memCache=sample.memory_cache_bytes,
        diskUsed=sample.disk_used_bytes,
        diskTotal=sample.disk_total_bytes,
    )


def sandbox_ids(values: Sequence[str]) -> tuple[str, ...]:
    """Return the ids of a bulk request, written as CSV, as repeated values, or both."""
    wanted = tuple(dict.fromkeys(sandbox_id(one) for one in ",".join(values).split(",") if one))
    if len(wanted) > _MAX_BULK:
        raise InvalidRequest(f"Too many sandboxes requested, maximum is {_MAX_BULK}")
    return wanted


def states(values: Sequence[str]) -> tuple[master.SandboxState, ...]:
    """Return the states of a filter written as CSV, as repeated values, or both."""
    wanted: list[master.SandboxState] = []
    for value in ",".join(values).split(","):
        if value == "":
            continue
        if value not in PUBLIC_STATES:
            raise InvalidRequest(f"Invalid state '{value}': expected running or paused")
        wanted.extend(PUBLIC_STATES[value])
    return tuple(wanted)


def metadata_filter(query: str) -> dict[str, str]:
    """Return the pairs of a metadata filter, from which the framework has taken HTTP's own quoting.

    SDKs quote each key and each value twice (`quote`, then `urlencode`); what was quoted once reads the same.
    """
    pairs = {}
    for pair in filter(None, query.split("&")):
        key, separator, value = pair.partition("=")
        if not separator or not key:
            raise InvalidRequest(f"Error parsing metadata: '{pair}' is not key=value")
        pairs[unquote(unquote(key))] = unquote(unquote(value))
    return pairs


def template(view: templates.TemplateView) -> e2b_templates.Template:
    return e2b_templates.Template.model_validate(_template(view))


def template_with_builds(
    view: templates.TemplateView, builds: Sequence[templates.BuildView]
) -> e2b_templates.TemplateWithBuilds:
    shown = tuple(_template_build(build) for build in builds)
    return e2b_templates.TemplateWithBuilds.model_validate({**_template(view), "builds": shown})


def template_names(view: templates.TemplateView) -> tuple[str, ...]:
    """Return the full names of a template, with its team's."""
    return tuple(f"{view.team_slug}/{alias}" for alias in view.aliases)


def _template(view: templates.TemplateView) -> dict[str, object]:
    return {
        "templateID": view.template_id,
        "buildID": view.build_id,
        "cpuCount": view.vcpus,
        "memoryMB": view.memory_mib,
        "diskSizeMB": view.disk_size_mib,
        "public": view.public,
        "aliases": view.aliases,
        "names": template_names(view),
        "createdAt": view.created_at,
        "updatedAt": view.updated_at,
        "lastSpawnedAt": view.last_spawned_at,
        "spawnCount": view.spawn_count,
        "buildCount": view.build_count,
        "envdVersion": view.envd_version,
        "buildStatus": view.status.value,
    }


def _template_build(view: templates.BuildView) -> e2b_templates.TemplateBuild:
    return e2b_templates.TemplateBuild(
        buildID=view.build_id,
        status=view.status.value,
        createdAt=view.created_at,
        updatedAt=view.finished_at or view.created_at,
        finishedAt=view.finished_at,
        cpuCount=view.vcpus,
        memoryMB=view.memory_mib,
        diskSizeMB=view.disk_size_mib,
        envdVersion=view.envd_version,
    )


def build_id(path: str) -> str:
    """Return the id of a build in a path. SDKs know builds by UUIDs."""
    try:
        return str(UUID(path))
    except ValueError as error:
        raise InvalidRequest("Invalid build id") from error


def build_info(view: templates.BuildView) -> e2b_templates.TemplateBuildInfo:
    entries = tuple(build_log_entry(entry) for entry in view.logs)
    reason = None
    if view.reason is not None:
        about = tuple(build_log_entry(entry) for entry in view.reason_logs)
        reason = e2b_templates.BuildReason(message=view.reason, step=view.step, logEntries=about)
    return e2b_templates.TemplateBuildInfo(
        templateID=view.template_id,
        buildID=view.build_id,
        status=view.status.value,
        logs=tuple(entry.message for entry in entries),
        logEntries=entries,
        reason=reason,
    )


def build_log_entry(entry: BuildLogEntry) -> e2b_templates.BuildLogEntry:
    # Levels come from nodes, in words; clients know four.
    level = _LEVELS.get(entry.level, "info")
    return e2b_templates.BuildLogEntry(timestamp=entry.timestamp, message=entry.message, level=level, step=entry.step)


def instant(milliseconds: int | None) -> datetime | None:
    """Return the time that is so many milliseconds after the epoch."""
    try:
        return None if milliseconds is None else datetime.fromtimestamp(milliseconds / 1000, UTC)
    except (OverflowError, ValueError, OSError) as error:
        raise InvalidRequest(f"Invalid time: {milliseconds} ms after the epoch") from error
