"""Header rules, a proxy, resolvers and workload tokens as the newest released SDK asks for them and reads them."""

from __future__ import annotations

from pathlib import Path

import jwt

from tests.integration.cubemaster.conftest import Appliance, RunProgram
from tests.support.sdk_venv import sdk_python

VALUE = "canary-b7d2"
PROGRAM = """
import json, sys
from e2b import Sandbox, Secret

Secret.create("one", sys.argv[1])
in_headers = lambda ctx: {"headers": {"X": "${e2b.secrets.one}", "Y": ctx.iam.tokens["aws"]}}
proxy = {"address": "proxy.example.com:1080"}
sandbox = Sandbox.create(
    "base",
    network={
        "allow_out": lambda ctx: list(ctx.rules),
        "deny_out": lambda ctx: [ctx.all_traffic],
        "dns_servers": [],
        "rules": {"a.com": [{"transform": in_headers}]},
        "egress_proxy": {**proxy, "username": "u", "password": "p", "tls": {"server_name": "b.com"}},
    },
    iam={"tokens": {"aws": Secret.iam_token(audience="sts", token_type="JWT-SVID")}},
)
made = Sandbox.get_info(sandbox.sandbox_id).network
sandbox.update_network({"egress_proxy": proxy})
updated = Sandbox.get_info(sandbox.sandbox_id).network
try:
    sandbox.update_network({"rules": {"a.com": [{"transform": {"headers": {"X": "${e2b.secrets.gone}"}}}]}})
except Exception as error:
    refused = str(error)
print(json.dumps({"id": sandbox.sandbox_id, "made": made, "updated": updated, "refused": refused}))
"""


async def test_a_released_client_sets_all_of_it_and_reads_it_again(
    appliance: Appliance, run_program: RunProgram, tmp_path: Path
) -> None:
    await appliance.team()
    await appliance.template()
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    answer = await run_program(sdk_python("e2b==2.63.0"), program, VALUE, cwd=tmp_path)

    headers = {"X": "${e2b.secrets.one}", "Y": "${e2b.identity.tokens.aws}"}
    assert answer["made"] == {
        "allow_public_traffic": True,
        "allow_out": ["a.com"],
        "deny_out": ["0.0.0.0/0"],
        "dns_servers": [],
        "rules": {"a.com": [{"transform": {"headers": headers}}]},
        "egress_proxy": {"address": "proxy.example.com:1080", "username": "u", "tls": {"server_name": "b.com"}},
    }
    (rule,) = appliance.node.requests[answer["id"]].network.header_rules
    assert rule.headers["X"] == VALUE
    assert jwt.get_unverified_header(rule.headers["Y"])["alg"] == "ES256"
    assert answer["updated"] == {"allow_public_traffic": True, "egress_proxy": {"address": "proxy.example.com:1080"}}
    assert "the secret 'gone', which does not exist" in answer["refused"]
