"""What the operator does to teams: E2B's routes. CubeProxy refuses them from outside, as it does those of nodes."""

# No postponed annotations: the routes' dependencies are local names, which FastAPI could not look up later.

from fastapi import APIRouter, Depends, Response

from appliance.clients.master import MasterClient
from appliance.common.clock import Clock
from appliance.contracts import e2b_access, e2b_admin
from appliance.contracts.master import ResolvedKey
from appliance.cubeapi import mapping_access as mapping
from appliance.cubeapi.auth import OPERATOR, Authenticator
from appliance.cubeapi.auth import team_id as parsed_team


def router(master: MasterClient, authenticate: Authenticator, clock: Clock) -> APIRouter:
    routes = APIRouter(prefix="/admin", dependencies=[Depends(authenticate.operator)])

    @routes.get("/sandboxes/running-counts")
    async def running_counts() -> dict[str, int]:
        return await master.teams.running_counts()

    @routes.post("/teams/{team_id}/sandboxes/kill")
    async def kill_sandboxes(team_id: str) -> e2b_admin.KillResult:
        tally = await master.teams.kill_sandboxes(parsed_team(team_id))
        return e2b_admin.KillResult(killedCount=tally.done, failedCount=tally.failed)

    @routes.post("/teams/{team_id}/builds/cancel")
    async def cancel_builds(team_id: str) -> e2b_admin.CancelResult:
        tally = await master.teams.cancel_builds(parsed_team(team_id))
        return e2b_admin.CancelResult(cancelledCount=tally.done, failedCount=tally.failed)

    @routes.post("/teams/{team_id}/api-keys", status_code=201)
    async def create_key(team_id: str, body: e2b_access.NewTeamApiKey) -> e2b_access.CreatedTeamApiKey:
        operator = ResolvedKey(key_id=OPERATOR, team_id=parsed_team(team_id), team_slug="")
        wanted = mapping.new_key(body, granter=operator, now=clock.now())
        return mapping.created_key(await master.create_key(wanted))

    @routes.delete("/teams/{team_id}/api-keys/{key_id}", status_code=204)
    async def revoke_key(team_id: str, key_id: str) -> Response:
        await master.revoke_key(mapping.key_id(key_id), team_id=parsed_team(team_id))
        return Response(status_code=204)

    return routes
