"""No team reaches another's objects: every route of CubeAPI is tried on them, and one without a case fails the test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from appliance.contracts.master import NewKey
from appliance.contracts.secrets import NewSecret
from appliance.contracts.volumes import NewVolume
from appliance.cubeapi.app import create_app
from appliance.cubeapi.settings import CubeApiSettings
from tests.integration.cubemaster.conftest import Appliance

NOT_FOUND = frozenset({404})
FORBIDDEN = frozenset({403})
"""Where E2B's own answer is a 403, and tells no more than that."""


@dataclass(frozen=True)
class Case:
    """What the caller sends about the other team's objects, whose ids stand for the words in braces."""

    path: str
    expected: frozenset[int]
    body: dict[str, Any] | None = None
    params: dict[str, str] | None = None


def _open(path: str, body: dict[str, Any] | None = None, params: dict[str, str] | None = None) -> Case:
    """A route that names no object: it works, and shows nothing of the other team's."""
    return Case(path, frozenset({200, 201, 204}), body, params)


def _content(kind: str, body: dict[str, Any] | None = None) -> Case:
    return Case(f"/volumecontent/{{volume}}/{kind}", frozenset({401}), body, {"path": "/"})


CASES: dict[tuple[str, str], Case] = {
    ("GET", "/health"): _open("/health"),
    ("GET", "/.well-known/openid-configuration"): _open("/.well-known/openid-configuration"),
    ("GET", "/.well-known/jwks.json"): _open("/.well-known/jwks.json"),
    ("POST", "/sandboxes"): Case("/sandboxes", NOT_FOUND, {"templateID": "{template}"}),
    ("POST", "/v2/sandboxes"): Case("/v2/sandboxes", NOT_FOUND, {"templateID": "{template}"}),
    ("GET", "/sandboxes"): _open("/sandboxes"),
    ("GET", "/v2/sandboxes"): _open("/v2/sandboxes", params={"template": "{template}"}),
    ("GET", "/sandboxes/metrics"): _open("/sandboxes/metrics", params={"sandbox_ids": "{sandbox}"}),
    ("GET", "/sandboxes/{path_id}/metrics"): Case("/sandboxes/{sandbox}/metrics", NOT_FOUND),
    ("GET", "/sandboxes/{path_id}"): Case("/sandboxes/{sandbox}", NOT_FOUND),
    ("DELETE", "/sandboxes/{path_id}"): Case("/sandboxes/{sandbox}", NOT_FOUND),
    ("POST", "/sandboxes/{path_id}/timeout"): Case("/sandboxes/{sandbox}/timeout", NOT_FOUND, {"timeout": 1}),
    ("POST", "/sandboxes/{path_id}/refreshes"): Case("/sandboxes/{sandbox}/refreshes", NOT_FOUND, {"duration": 3600}),
    ("PUT", "/sandboxes/{path_id}/network"): Case("/sandboxes/{sandbox}/network", NOT_FOUND, {}),
    ("POST", "/sandboxes/{path_id}/connect"): Case("/sandboxes/{sandbox}/connect", NOT_FOUND, {"timeout": 9}),
    ("POST", "/v2/sandboxes/{path_id}/connect"): Case("/v2/sandboxes/{sandbox}/connect", NOT_FOUND, {}),
    ("POST", "/sandboxes/{path_id}/pause"): Case("/sandboxes/{sandbox}/pause", NOT_FOUND),
    ("POST", "/sandboxes/{path_id}/resume"): Case("/sandboxes/{sandbox}/resume", NOT_FOUND, {}),
    ("POST", "/sandboxes/{path_id}/fork"): Case("/sandboxes/{sandbox}/fork", NOT_FOUND, {}),
    ("POST", "/sandboxes/{path_id}/rollback"): Case(
        "/sandboxes/{sandbox}/rollback", NOT_FOUND, {"snapshotID": "{template}"}
    ),
    ("POST", "/sandboxes/{path_id}/snapshots"): Case("/sandboxes/{sandbox}/snapshots", NOT_FOUND, {}),
    ("GET", "/snapshots"): _open("/snapshots"),
    ("GET", "/sandboxes/{path_id}/logs"): Case("/sandboxes/{sandbox}/logs", NOT_FOUND),
    ("GET", "/v2/sandboxes/{path_id}/logs"): Case("/v2/sandboxes/{sandbox}/logs", NOT_FOUND),
    ("POST", "/templates/tags"): Case("/templates/tags", NOT_FOUND, {"target": "{template}", "tags": ["x"]}),
    ("DELETE", "/templates/tags"): Case("/templates/tags", NOT_FOUND, {"name": "{template}", "tags": ["x"]}),
    ("GET", "/templates/{reference}/tags"): Case("/templates/{template}/tags", NOT_FOUND),
    ("GET", "/templates/{template_id}/builds/{path_id}/status"): Case(
        "/templates/{template}/builds/{build}/status", NOT_FOUND
    ),
    ("GET", "/templates/{template_id}/builds/{path_id}/logs"): Case(
        "/templates/{template}/builds/{build}/logs", NOT_FOUND
    ),
    ("GET", "/templates"): _open("/templates"),
    ("GET", "/v2/templates"): _open("/v2/templates"),
    ("GET", "/default-templates"): _open("/default-templates"),
    ("GET", "/templates/aliases/{alias}"): Case("/templates/aliases/theirs%2Fbase", NOT_FOUND),
    ("GET", "/templates/{reference}"): Case("/templates/{template}", NOT_FOUND),
    ("PATCH", "/templates/{reference}"): Case("/templates/{template}", NOT_FOUND, {"public": True}),
    ("PATCH", "/v2/templates/{reference}"): Case("/v2/templates/{template}", NOT_FOUND, {"public": True}),
    ("DELETE", "/templates/{reference}"): Case("/templates/{template}", NOT_FOUND),
    # A name in the other team's namespace.
    ("POST", "/v3/templates"): Case("/v3/templates", frozenset({400}), {"name": "theirs/base"}),
    ("POST", "/v2/templates"): Case("/v2/templates", frozenset({400}), {"alias": "theirs/base"}),
    ("POST", "/v2/templates/{template_id}/builds/{path_id}"): Case(
        "/v2/templates/{template}/builds/{build}", NOT_FOUND, {"fromImage": "alpine"}
    ),
    ("GET", "/templates/{reference}/files/{files_hash}"): Case(f"/templates/{{template}}/files/{'0' * 64}", NOT_FOUND),
    # Nothing but the signature counts here.
    ("PUT", "/templates/{template_id}/files/{files_hash}"): Case(
        f"/templates/{{template}}/files/{'0' * 64}", frozenset({401}), {}, {"expires": "1", "signature": "0" * 64}
    ),
    # The first generation's, which are refused whatever they name.
    ("POST", "/templates"): Case("/templates", frozenset({400})),
    ("POST", "/templates/{template_id}"): Case("/templates/{template}", frozenset({400})),
    ("POST", "/templates/{template_id}/builds/{path_id}"): Case(
        "/templates/{template}/builds/{build}", frozenset({400})
    ),
    ("GET", "/api-keys"): _open("/api-keys"),
    ("POST", "/api-keys"): _open("/api-keys", {"name": "mine", "teamID": "{team}"}),
    ("PATCH", "/api-keys/{key_id}"): Case("/api-keys/{key}", NOT_FOUND, {"name": "mine now"}),
    ("DELETE", "/api-keys/{key_id}"): Case("/api-keys/{key}", NOT_FOUND),
    ("GET", "/teams"): _open("/teams"),
    ("GET", "/teams/{team_id}/metrics"): Case("/teams/{team}/metrics", FORBIDDEN),
    ("GET", "/teams/{team_id}/metrics/max"): Case(
        "/teams/{team}/metrics/max", FORBIDDEN, params={"metric": "concurrent_sandboxes"}
    ),
    ("GET", "/secrets"): _open("/secrets"),
    ("POST", "/secrets"): _open("/secrets", {"name": "theirs", "value": "mine"}),
    ("GET", "/secrets/{secret_id}"): Case("/secrets/{secret}", NOT_FOUND),
    ("POST", "/secrets/{secret_id}"): Case("/secrets/{secret}", NOT_FOUND, {"value": "mine"}),
    ("DELETE", "/secrets/{secret_id}"): Case("/secrets/{secret}", NOT_FOUND),
    ("GET", "/volumes"): _open("/volumes"),
    ("POST", "/volumes"): _open("/volumes", {"name": "theirs"}),
    ("GET", "/volumes/{volume_id}"): Case("/volumes/{volume}", NOT_FOUND),
    ("DELETE", "/volumes/{volume_id}"): Case("/volumes/{volume}", NOT_FOUND),
    # Nothing but the volume's token counts here.
    ("GET", "/volumecontent/{volume_id}/path"): _content("path"),
    ("PATCH", "/volumecontent/{volume_id}/path"): _content("path", {"mode": 0}),
    ("DELETE", "/volumecontent/{volume_id}/path"): _content("path"),
    ("GET", "/volumecontent/{volume_id}/dir"): _content("dir"),
    ("POST", "/volumecontent/{volume_id}/dir"): _content("dir"),
    ("GET", "/volumecontent/{volume_id}/file"): _content("file"),
    ("PUT", "/volumecontent/{volume_id}/file"): _content("file", {}),
    # There are no access tokens to reach.
    ("POST", "/access-tokens"): Case("/access-tokens", frozenset({410})),
    ("DELETE", "/access-tokens/{token_id}"): Case("/access-tokens/{key}", NOT_FOUND),
    # The operator's: a key of any team is nothing there.
    ("GET", "/nodes"): Case("/nodes", frozenset({401})),
    ("GET", "/nodes/{node_id}"): Case("/nodes/cube-1", frozenset({401})),
    ("POST", "/nodes/{node_id}"): Case("/nodes/cube-1", frozenset({401}), {"status": "draining"}),
    ("GET", "/admin/sandboxes/running-counts"): Case("/admin/sandboxes/running-counts", frozenset({401})),
    ("POST", "/admin/teams/{team_id}/sandboxes/kill"): Case("/admin/teams/{team}/sandboxes/kill", frozenset({401})),
    ("POST", "/admin/teams/{team_id}/builds/cancel"): Case("/admin/teams/{team}/builds/cancel", frozenset({401})),
    ("POST", "/admin/teams/{team_id}/api-keys"): Case(
        "/admin/teams/{team}/api-keys", frozenset({401}), {"name": "mine"}
    ),
    ("DELETE", "/admin/teams/{team_id}/api-keys/{key_id}"): Case(
        "/admin/teams/{team}/api-keys/{key}", frozenset({401})
    ),
}


def routes() -> set[tuple[str, str]]:
    paths = create_app(CubeApiSettings()).openapi()["paths"]
    return {(method.upper(), path) for path, operations in paths.items() for method in operations}


def test_every_route_has_a_case() -> None:
    assert routes() - CASES.keys() == set(), "say what these do with another team's objects"


@pytest.fixture
async def theirs(appliance: Appliance) -> dict[str, str]:
    """One of each object, of another team than the caller's."""
    team_id = await appliance.team("theirs")
    template_id = await appliance.template("base", team="theirs")
    volume = await appliance.master.volumes.create(NewVolume(team_id=team_id, name="theirs"))
    secret = await appliance.master.secrets.create(NewSecret(team_id=team_id, name="theirs", value="hunter2"))
    return {
        "team": team_id,
        "template": template_id,
        "build": (await appliance.master.get_template(template_id)).build_id,
        "sandbox": (await appliance.sandbox(team_id)).sandbox_id,
        "key": (await appliance.master.create_key(NewKey(team="theirs", name="theirs"))).key_id,
        "secret": secret.secret_id,
        "volume": volume.volume_id,
        "volume_token": volume.token,
    }


async def test_no_route_reaches_another_teams_objects(
    appliance: Appliance, api: httpx.AsyncClient, theirs: dict[str, str]
) -> None:
    def filled(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: filled(one) for key, one in value.items()}
        return value.format(**theirs) if isinstance(value, str) else value

    before = await standing(appliance, theirs)
    wrong = {}
    for method, path in sorted(routes()):
        case = CASES[method, path]
        response = await api.request(method, filled(case.path), json=filled(case.body), params=filled(case.params))
        leaked = [word for word in theirs.values() if response.is_success and word in response.text]
        if response.status_code not in case.expected or leaked:
            wrong[method, path] = (response.status_code, response.text[:200], leaked)

    assert wrong == {}
    assert await standing(appliance, theirs) == before


async def standing(appliance: Appliance, theirs: dict[str, str]) -> list[object]:
    """Return all that a stranger might have changed."""
    master = appliance.master
    return [
        await master.get_sandbox(theirs["sandbox"]),
        (await master.get_template(theirs["template"])).public,
        await master.list_tags(theirs["template"]),
        await master.secrets.get(theirs["secret"], team_id=theirs["team"]),
        await master.volumes.all(team_id=theirs["team"]),
        [(one.key_id, one.name) for one in await master.list_keys(team_id=theirs["team"])],
        [one.draining for one in await master.list_nodes()],
    ]
