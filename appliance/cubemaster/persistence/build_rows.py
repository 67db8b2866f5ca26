"""A build as its row in `builds`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row

from appliance.domain.build_steps import BuildStep, StepType
from appliance.domain.ids import BuildId, SandboxId, TemplateId
from appliance.domain.placement import Resources
from appliance.domain.registry_login import RegistryLogin
from appliance.domain.template import Build, BuildSpec, BuildStatus


def spec_columns(spec: BuildSpec) -> dict[str, object]:
    """Return the columns of `builds` that say what shall be built."""
    return {
        "image": spec.image,
        "from_build": spec.from_build,
        **login_columns(spec.registry_login),
        "steps": steps_column(spec.steps),
        "force": spec.force,
        "vcpus": spec.resources.vcpus,
        "memory_mib": spec.resources.memory_mib,
        "writable_layer_mib": spec.writable_layer_mib,
        "start_cmd": spec.start_cmd,
        "ready_cmd": spec.ready_cmd,
        "probe_port": spec.probe_port,
        "exposed_ports": list(spec.exposed_ports),
    }


def login_columns(login: RegistryLogin | None) -> dict[str, str | None]:
    return {
        "registry_username": login.username if login else None,
        "registry_password": login.password if login else None,
        "registry_aws_region": login.aws_region if login else None,
    }


def _login(row: Row[tuple[object, ...]]) -> RegistryLogin | None:
    if not row.registry_username:
        return None
    return RegistryLogin(row.registry_username, row.registry_password, row.registry_aws_region)


def steps_column(steps: Sequence[BuildStep] | None) -> list[dict[str, object]] | None:
    if steps is None:
        return None
    return [
        {"type": one.type, "args": list(one.args), "files_hash": one.files_hash, "force": one.force} for one in steps
    ]


def _steps(column: list[dict[str, Any]] | None) -> tuple[BuildStep, ...] | None:
    if column is None:
        return None
    return tuple(
        BuildStep(StepType(one["type"]), tuple(one["args"]), files_hash=one["files_hash"], force=one["force"])
        for one in column
    )


def read_build(row: Row[tuple[object, ...]]) -> Build:
    """Return the build in the columns of `builds` that `row` has."""
    return Build(
        build_id=BuildId(row.build_id),
        template_id=TemplateId(row.template_id),
        tags=tuple(row.tags),
        status=BuildStatus(row.status),
        spec=BuildSpec(
            image=row.image,
            registry_login=_login(row),
            resources=Resources(row.vcpus, row.memory_mib),
            writable_layer_mib=row.writable_layer_mib,
            from_build=BuildId(row.from_build) if row.from_build else None,
            steps=_steps(row.steps),
            force=row.force,
            start_cmd=row.start_cmd,
            ready_cmd=row.ready_cmd,
            probe_port=row.probe_port,
            exposed_ports=tuple(row.exposed_ports),
        ),
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        reason=row.reason,
        step=row.step,
        disk_size_mib=row.disk_size_mib,
        envd_version=row.envd_version,
        source_sandbox_id=SandboxId(row.source_sandbox_id) if row.source_sandbox_id else None,
    )
