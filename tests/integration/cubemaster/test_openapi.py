"""CubeAPI keeps to its OpenAPI document: schemathesis asks what it may ask, and what it may not."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.core.result import Err
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from appliance.contracts.master import NewKey
from appliance.contracts.volumes import NewVolume, VolumeMount
from appliance.cubeapi.app import create_app
from appliance.cubeapi.settings import AuthFailureSettings, CubeApiSettings
from tests.integration.cubemaster.conftest import ADMIN_TOKEN, Appliance
from tests.support.fake_node import serve_on

EXAMPLES = 5
"""For each operation, once as documented and once broken."""
LIMIT_S = 150
CREDENTIALS = frozenset({"authorization", "x-api-key", "x-admin-token", "x-team-id"})
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


@dataclass
class Prober:
    """Sends what schemathesis makes up to CubeAPI's socket."""

    socket: Path
    headers: dict[str, str]
    known: dict[str, str]
    """Objects that exist, by the names of path parameters."""
    statuses: Counter[int] = field(default_factory=Counter)
    failures: dict[str, str] = field(default_factory=dict)

    def run(self, document: dict[str, Any]) -> None:
        give_up = time.monotonic() + LIMIT_S
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(self.socket)), timeout=20) as client:
            for found in schemathesis.openapi.from_dict(document).get_all_operations():
                assert not isinstance(found, Err), found
                operation = found.ok()
                for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
                    assert time.monotonic() < give_up, "fewer examples: this has a time limit"
                    try:
                        self._probe(client, operation, mode)
                    except (AssertionError, FailureGroup) as error:
                        self.failures[f"{operation.label} ({mode.name})"] = str(error)

    def _probe(self, client: httpx.Client, operation: Any, mode: GenerationMode) -> None:
        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode), real=st.booleans())
        def probe(case: schemathesis.Case[Any], real: bool) -> None:
            if real and case.path_parameters:
                case.path_parameters.update({k: v for k, v in self.known.items() if k in case.path_parameters})
            # Who asks is this test's to say.
            for name in [one for one in case.headers or () if one.lower() in CREDENTIALS]:
                del case.headers[name]
            kwargs = case.as_transport_kwargs(base_url="http://api", headers=self.headers)
            prepared: Any = requests.Request(**kwargs).prepare()
            try:
                answer = client.request(
                    str(prepared.method), str(prepared.url), headers=dict(prepared.headers), content=prepared.body
                )
            except httpx.LocalProtocolError:
                # HTTP itself has no way to say it.
                return
            self.statuses[answer.status_code] += 1
            case.validate_response(answer, checks=CHECKS)

        try:
            probe()
        except Unsatisfiable:
            # An operation without parameters cannot be asked wrongly.
            if mode is not GenerationMode.NEGATIVE:
                raise


async def test_no_answer_is_undocumented_and_none_is_a_crash(appliance: Appliance, run_dir: Path) -> None:
    team_id, template_id = await appliance.team(), await appliance.template()
    volume = await appliance.master.volumes.create(NewVolume(team_id=team_id, name="data"))
    # It has the volume, which therefore outlives the examples.
    sandbox = await appliance.sandbox(team_id, volumes=(VolumeMount(name="data", path="/data"),))
    key = await appliance.master.create_key(NewKey(name="test"))
    app = create_app(
        CubeApiSettings(
            master=f"unix://{appliance.settings.socket}", auth_failures=AuthFailureSettings(burst=10**6, per_s=1)
        ),
        admin_token=ADMIN_TOKEN,
    )
    document = app.openapi()
    prober = Prober(
        socket=run_dir / "api",
        # The operator on the team's behalf: whatever the examples do to keys, these stay good.
        headers={
            "X-Admin-Token": ADMIN_TOKEN,
            "X-Team-ID": team_id,
            # For the content of the volume alone, which asks for nothing else.
            "Authorization": f"Bearer {volume.token}",
        },
        known={
            "path_id": sandbox.sandbox_id,
            "template_id": template_id,
            "reference": template_id,
            "team_id": team_id,
            "key_id": key.key_id,
            "volume_id": volume.volume_id,
            "node_id": appliance.node.node_id,
        },
    )
    async with serve_on(app, prober.socket):
        await asyncio.to_thread(prober.run, document)

    assert prober.failures == {}
    # It reached what it asked for, and was refused what it must not have.
    assert {200, 204, 400, 404} <= prober.statuses.keys()


async def test_the_document_tells_errors_as_they_are(api: httpx.AsyncClient) -> None:
    document = (await api.get("/openapi.json")).json()
    created = document["paths"]["/v2/sandboxes"]["post"]["responses"]
    assert {"201", "400", "401", "403", "404", "409", "429", "500", "503"} == created.keys()
    assert created["404"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/ErrorBody"}
    assert "content" not in document["paths"]["/sandboxes/{path_id}"]["delete"]["responses"]["204"]
    assert document["paths"]["/nodes"]["get"]["security"] == [{"AdminTokenAuth": []}]
    content = document["paths"]["/volumecontent/{volume_id}/file"]
    assert content["put"]["security"] == [{"VolumeToken": []}]
    assert content["put"]["responses"]["404"]["content"]["application/json"]["schema"] == {
        "$ref": "#/components/schemas/ContentError"
    }
    assert content["get"]["responses"]["200"]["content"].keys() == {"application/octet-stream"}
    upload = document["paths"]["/templates/{template_id}/files/{files_hash}"]["put"]["responses"]
    assert {"411", "413"} <= upload.keys()
    for public in ("/.well-known/openid-configuration", "/.well-known/jwks.json"):
        found = document["paths"][public]["get"]
        assert "security" not in found
        assert found["responses"].keys() == {"200", "500", "503"}
    assert "422" not in str(document)
    assert (await api.get("/docs")).status_code == 404
