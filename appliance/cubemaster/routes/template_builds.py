from __future__ import annotations

from fastapi import APIRouter

from appliance.contracts.templates import BuildStart, BuildView, NewTemplateBuild, RequestedBuild
from appliance.cubemaster.mapping import build_source, build_view, requested_build
from appliance.cubemaster.services.template_builds import TemplateBuilds


def template_builds_router(builds: TemplateBuilds) -> APIRouter:
    router = APIRouter(prefix="/v1")

    @router.post("/template-builds", status_code=202)
    async def request(new: NewTemplateBuild) -> RequestedBuild:
        requested = await builds.request(
            new.name,
            new.tags,
            team_id=new.team_id,
            vcpus=new.vcpus,
            memory_mib=new.memory_mib,
            min_free_disk_mib=new.min_free_disk_mib,
        )
        return requested_build(requested.template, requested.build)

    @router.post("/builds/{build_id}/start", status_code=202)
    async def start(build_id: str, new: BuildStart) -> BuildView:
        source = build_source(new)
        return build_view(await builds.start(build_id, source, team_id=new.team_id, template_id=new.template_id))

    return router
