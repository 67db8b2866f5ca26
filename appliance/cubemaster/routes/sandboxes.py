from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response

from appliance.contracts.master import NewEgress, NewSandbox, NewTimeout, SandboxPage
from appliance.cubemaster.mapping import aware, cursor_of, position_of, sandbox_view
from appliance.cubemaster.mapping_egress import egress_network, private_rules, sandbox_network, wanted_tokens
from appliance.cubemaster.persistence.sandboxes import SandboxFilter
from appliance.cubemaster.services.intents import Wish
from appliance.cubemaster.services.policies import Policies
from appliance.cubemaster.services.sandboxes import SandboxService
from appliance.cubemaster.services.tokens import SandboxTokens
from appliance.domain.errors import InvalidRequest
from appliance.domain.ids import TeamId
from appliance.domain.private_rules import PrivateRules
from appliance.domain.sandbox import VISIBLE, OnTimeout, Sandbox, SandboxState
from appliance.domain.volume import WantedMount


def sandboxes_router(sandboxes: SandboxService, policies: Policies, tokens: SandboxTokens) -> APIRouter:
    router = APIRouter(prefix="/v1")

    def view(sandbox: Sandbox, *, status: int = 200, private: PrivateRules | None = None) -> Response:
        shown = sandbox_view(
            sandbox, access_token=tokens.access(sandbox), traffic_token=tokens.traffic(sandbox), private=private
        )
        # Written out here: FastAPI would validate our own answer once more on every create.
        return Response(shown.model_dump_json(), status_code=status, media_type="application/json")

    @router.post("/sandboxes")
    async def create(new: NewSandbox) -> Response:
        wish = Wish(
            team_id=TeamId(new.team_id),
            template=new.template,
            timeout=timedelta(seconds=new.timeout_s),
            metadata=new.metadata,
            env_vars=new.env_vars,
            secure=new.secure,
            network=sandbox_network(new),
            private=private_rules(new),
            workload_tokens=wanted_tokens(new),
            on_timeout=OnTimeout(new.on_timeout),
            auto_resume=new.auto_resume,
            volumes=tuple(WantedMount(one.name, one.path) for one in new.volumes),
            idempotency_key=new.idempotency_key,
        )
        return view(await sandboxes.create(wish), status=201)

    @router.get("/sandboxes")
    async def list_page(  # noqa: PLR0917 - FastAPI passes query parameters by name
        team_id: str | None = None,
        state: str | None = None,
        template: str | None = None,
        metadata: str | None = None,
        order: Literal["asc", "desc"] = "desc",
        started_after: datetime | None = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        cursor: str | None = None,
    ) -> Response:
        page = await sandboxes.page(
            SandboxFilter(
                states=_states(state),
                team_id=TeamId(team_id) if team_id else None,
                metadata=_metadata(metadata),
                started_after=aware(started_after) if started_after else None,
            ),
            template=template,
            after=position_of(cursor),
            ascending=order == "asc",
            limit=limit,
        )
        shown = SandboxPage.model_construct(
            sandboxes=tuple(sandbox_view(one, access_token=tokens.access(one)) for one in page.sandboxes),
            next_cursor=cursor_of(page.next_position),
            total_running=page.total_running,
        )
        return Response(shown.model_dump_json(), media_type="application/json")

    @router.get("/sandboxes/{sandbox_id}")
    async def get(sandbox_id: str, team_id: str | None = None, ended: bool = False) -> Response:
        sandbox, private = await policies.opened(await sandboxes.get(sandbox_id, team_id=team_id, ended=ended))
        return view(sandbox, private=private)

    @router.post("/sandboxes/{sandbox_id}/timeout")
    async def set_timeout(sandbox_id: str, new: NewTimeout) -> Response:
        return view(
            await sandboxes.set_timeout(
                sandbox_id,
                timedelta(seconds=new.timeout_s),
                team_id=new.team_id,
                extend_only=new.extend_only,
            )
        )

    @router.put("/sandboxes/{sandbox_id}/network", status_code=204)
    async def set_egress(sandbox_id: str, new: NewEgress) -> Response:
        await sandboxes.set_egress(sandbox_id, egress_network(new), private_rules(new), team_id=new.team_id)
        return Response(status_code=204)

    @router.delete("/sandboxes/{sandbox_id}", status_code=204)
    async def kill(sandbox_id: str, team_id: str | None = None) -> Response:
        await sandboxes.kill(sandbox_id, team_id=team_id)
        return Response(status_code=204)

    return router


def _states(text: str | None) -> frozenset[SandboxState]:
    if not text:
        return VISIBLE
    try:
        return frozenset(SandboxState(word) for word in text.split(","))
    except ValueError as error:
        raise InvalidRequest(f"{error}; states are {', '.join(SandboxState)}") from error


def _metadata(text: str | None) -> dict[str, str] | None:
    if text is None:
        return None
    try:
        pairs = json.loads(text)
    except json.JSONDecodeError as error:
        raise InvalidRequest("metadata is not JSON") from error
    if not isinstance(pairs, dict) or not all(isinstance(value, str) for value in pairs.values()):
        raise InvalidRequest("metadata must be a JSON object of strings")
    return pairs
