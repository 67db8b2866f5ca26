"""Shapes of E2B's template builder from and to CubeMaster's."""

from __future__ import annotations

import json

from appliance.contracts import e2b_templates as e2b
from appliance.contracts import templates
from appliance.contracts.master import ResolvedKey
from appliance.contracts.node import RegistryLogin
from appliance.cubeapi import mapping
from appliance.domain.errors import InvalidRequest

_GCP_USERNAME = "_json_key"
"""Google's registries take a service account's key as the password of this user."""


def refuse_other_team(team_id: str | None, key: ResolvedKey) -> None:
    """Raise InvalidRequest where a request names another team than its key's, which is the only one it may name."""
    if team_id is not None and team_id != key.team_id:
        raise InvalidRequest("Team ID param mismatch with the API key")


def requested_v3(body: e2b.NewTemplateV3, *, team_id: str) -> templates.NewTemplateBuild:
    if body.name and body.alias and body.name != body.alias:
        raise InvalidRequest("name and alias are two words for the same: give one")
    return templates.NewTemplateBuild(
        team_id=team_id,
        name=body.name or body.alias or "",
        tags=body.tags or (),
        vcpus=body.cpuCount,
        memory_mib=body.memoryMB,
        min_free_disk_mib=body.minFreeDiskMb,
    )


def requested_v2(body: e2b.NewTemplateV2, *, team_id: str) -> templates.NewTemplateBuild:
    return templates.NewTemplateBuild(team_id=team_id, name=body.alias, vcpus=body.cpuCount, memory_mib=body.memoryMB)


def requested_template(requested: templates.RequestedBuild) -> e2b.RequestedTemplate:
    template = requested.template
    return e2b.RequestedTemplate(
        templateID=template.template_id,
        buildID=requested.build_id,
        public=template.public,
        names=mapping.template_names(template),
        tags=requested.tags,
        aliases=template.aliases,
    )


def legacy_template(requested: templates.RequestedBuild) -> e2b.Template:
    """Return the template with the id of the new build, where else the newest READY one is."""
    return mapping.template(requested.template.model_copy(update={"build_id": requested.build_id}))


def build_start(body: e2b.TemplateBuildStart, *, template_id: str, team_id: str) -> templates.BuildStart:
    return templates.BuildStart(
        team_id=team_id,
        template_id=template_id,
        image=body.fromImage or None,
        template=body.fromTemplate or None,
        registry=None if body.fromImageRegistry is None else _login(body.fromImageRegistry),
        steps=tuple(
            templates.NewBuildStep(
                type=step.type, args=step.args or (), files_hash=step.filesHash or None, force=bool(step.force)
            )
            for step in body.steps or ()
        ),
        force=bool(body.force),
        start_cmd=body.startCmd or None,
        ready_cmd=body.readyCmd or None,
    )


def _login(registry: e2b.Registry) -> RegistryLogin:
    match registry:
        case e2b.GeneralRegistry():
            return RegistryLogin(username=registry.username, password=registry.password)
        case e2b.GcpRegistry():
            return RegistryLogin(username=_GCP_USERNAME, password=_service_account(registry.serviceAccountJson))
        case e2b.AwsRegistry():
            return RegistryLogin(
                username=registry.awsAccessKeyId, password=registry.awsSecretAccessKey, aws_region=registry.awsRegion
            )


def _service_account(text: str) -> str:
    try:
        account = json.loads(text)
    except json.JSONDecodeError:
        account = None
    if not isinstance(account, dict) or not account.get("private_key"):
        raise InvalidRequest("fromImageRegistry.serviceAccountJson is not the JSON of a service account's key")
    return text
