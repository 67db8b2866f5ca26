"""Header rules, egress proxies and workload tokens: sealed at rest, with secrets in their places on the node alone."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import jwt
import pytest

from appliance.contracts.egress import EgressProxy, EgressProxyTls, NewEgressProxy, Transform, WorkloadToken
from appliance.contracts.master import NewEgress, NewFork, NewPause, NewResume, NewSnapshot, SandboxView
from appliance.contracts.node_network import HeaderRule, NetworkPolicy, Tunnel, TunnelTls
from appliance.contracts.secrets import NewSecret, SecretUpdate
from appliance.cubemaster.persistence.tables import metadata
from appliance.domain import errors
from appliance.domain.workload_token import RENEWED_AFTER
from tests.integration.cubemaster.conftest import DATABASE, Appliance, eventually

CANARY = "canary-b7d2"
EVERYTHING = ("0.0.0.0/0",)
PROXY = NewEgressProxy.model_validate(
    {"address": "Proxy.example.com:1080", "username": "user", "password": CANARY, "tls": {"enabled": True}}
)


def rules(value: str, *, domain: str = "API.example.com") -> dict[str, tuple[Transform, ...]]:
    return {domain: (Transform(headers={"Authorization": value}),)}


def policy_of(appliance: Appliance, sandbox: SandboxView) -> NetworkPolicy:
    """Return what the node heard last of a sandbox's rules."""
    node = appliance.node
    return node.policies.get(sandbox.sandbox_id) or node.requests[sandbox.sandbox_id].network


def authorization(appliance: Appliance, sandbox: SandboxView) -> str:
    (rule,) = policy_of(appliance, sandbox).header_rules
    return rule.headers["Authorization"] if not rule.refusal else f"refused: {rule.refusal}"


async def ready(appliance: Appliance, **secrets: str) -> str:
    """Return a team with these secrets and a template."""
    team_id, _ = await appliance.team(), await appliance.template()
    for name, value in secrets.items():
        await appliance.master.secrets.create(NewSecret(team_id=team_id, name=name, value=value))
    return team_id


async def becomes(appliance: Appliance, sandbox: SandboxView, expected: str) -> None:
    async def told() -> bool:
        await appliance.beat()
        return authorization(appliance, sandbox) == expected

    await eventually(told, within_s=30)


def dump(appliance: Appliance) -> str:
    """Return all that the database holds, as text."""
    rows = [
        row
        for table in metadata.sorted_tables
        for row in appliance.db.execute(f"SELECT * FROM {table.name}", database=DATABASE)
    ]
    assert rows
    return repr(rows)


async def test_a_node_gets_headers_with_their_secrets_and_the_database_gets_neither(appliance: Appliance) -> None:
    team_id = await ready(appliance, one=f"{CANARY}-secret")
    made = await appliance.sandbox(
        team_id,
        rules=rules(f"Bearer ${{e2b.secrets.ONE}} {CANARY}-literal"),
        egress_proxy=PROXY,
        idempotency_key="again",
    )
    policy = policy_of(appliance, made)
    assert policy.header_rules == (
        HeaderRule(domain="api.example.com", headers={"Authorization": f"Bearer {CANARY}-secret {CANARY}-literal"}),
    )
    assert policy.tunnel == Tunnel(
        host="proxy.example.com",
        port=1080,
        username="user",
        password=CANARY,
        tls=TunnelTls(server_name="proxy.example.com"),
    )
    assert CANARY not in dump(appliance)
    assert CANARY not in repr(policy)


async def test_rules_are_shown_as_they_were_given_and_the_proxy_without_its_password(appliance: Appliance) -> None:
    team_id = await ready(appliance, one="value")
    given = {**rules(f"Bearer ${{e2b.secrets.ONE}} {CANARY}"), "b.com": ()}
    made = await appliance.sandbox(team_id, rules=given, egress_proxy=PROXY, dns_servers=("1.1.1.1",))
    shown = await appliance.master.get_sandbox(made.sandbox_id)
    assert shown.rules == given
    assert shown.egress_proxy == EgressProxy(
        address="Proxy.example.com:1080", username="user", tls=EgressProxyTls(enabled=True)
    )
    assert shown.dns_servers == ("1.1.1.1",)
    (listed,) = (await appliance.master.list_sandboxes(team_id=team_id)).sandboxes
    assert (listed.rules, listed.egress_proxy) == ({}, None)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"rules": rules("${e2b.secrets.gone}")}, "the secret 'gone', which does not exist; create it first"),
        ({"rules": rules("${e2b.identity.tokens.aws}")}, "the workload token 'aws', which is not in the sandbox's"),
        ({"rules": rules("x", domain="1.1.1.1")}, 'Rule domain "1.1.1.1" is not a valid domain name.'),
        ({"egress_proxy": {"address": "10.0.0.1:1"}}, "Invalid egress proxy config: "),
        ({"dns_servers": ["x"]}, "invalid DNS server x"),
    ],
)
async def test_rules_that_cannot_be_are_refused_before_anything_is_made_and_when_they_change(
    appliance: Appliance, asked: dict[str, Any], message: str
) -> None:
    team_id = await ready(appliance)
    other = await appliance.team("other")
    await appliance.master.secrets.create(NewSecret(team_id=other, name="gone", value="theirs"))
    with pytest.raises(errors.InvalidRequest, match=message):
        await appliance.sandbox(team_id, **asked)
    assert appliance.node.requests == {}

    made = await appliance.sandbox(team_id, rules=rules(CANARY))
    with pytest.raises(errors.InvalidRequest, match=message):
        await appliance.master.set_egress(made.sandbox_id, NewEgress.model_validate({"team_id": team_id, **asked}))
    assert (await appliance.master.get_sandbox(made.sandbox_id)).rules == rules(CANARY)
    assert appliance.node.policies == {}


async def test_an_update_replaces_rules_and_proxy_and_none_are_left_where_none_are_given(appliance: Appliance) -> None:
    team_id = await ready(appliance, one="value")
    made = await appliance.sandbox(team_id, rules=rules("old"), egress_proxy=PROXY)
    await appliance.master.set_egress(made.sandbox_id, NewEgress(rules=rules("${e2b.secrets.one}")))
    assert (authorization(appliance, made), policy_of(appliance, made).tunnel) == ("value", None)
    await appliance.master.set_egress(made.sandbox_id, NewEgress(egress_proxy=PROXY))
    policy = policy_of(appliance, made)
    assert policy.header_rules == ()
    assert policy.tunnel is not None
    await appliance.master.set_egress(made.sandbox_id, NewEgress())
    revision = policy_of(appliance, made).revision
    assert policy_of(appliance, made) == NetworkPolicy(revision=revision)
    assert appliance.db.execute("SELECT sealed_rules, rule_secrets FROM sandboxes", database=DATABASE) == [(None, "[]")]


async def test_resolvers_count_beside_domains_alone(appliance: Appliance) -> None:
    team_id = await ready(appliance)
    domains = {"allow_out": ("a.com", "8.8.4.4"), "deny_out": EVERYTHING}
    for asked, expected in (
        ({**domains}, (("8.8.4.4",), True)),
        ({**domains, "dns_servers": ()}, (("8.8.4.4",), False)),
        ({**domains, "dns_servers": ("1.1.1.1",)}, (("8.8.4.4", "1.1.1.1"), False)),
        ({"dns_servers": ("1.1.1.1",)}, ((), True)),
    ):
        policy = policy_of(appliance, await appliance.sandbox(team_id, **asked))
        assert (policy.allow_out, policy.name_service) == expected


async def test_rules_last_over_a_pause_and_in_forks_and_not_in_what_a_snapshot_makes(appliance: Appliance) -> None:
    team_id = await ready(appliance, one="first")
    made = await appliance.sandbox(team_id, rules=rules("${e2b.secrets.one}"), egress_proxy=PROXY)
    snapshot = await appliance.master.take_snapshot(made.sandbox_id, NewSnapshot())
    of_snapshot = await appliance.sandbox(team_id, template=snapshot.snapshot_id)
    assert (policy_of(appliance, of_snapshot).header_rules, policy_of(appliance, of_snapshot).tunnel) == ((), None)

    (forked,) = await appliance.master.fork_sandbox(made.sandbox_id, NewFork(timeout_s=60))
    assert forked.sandbox is not None
    assert authorization(appliance, forked.sandbox) == "first"
    assert policy_of(appliance, forked.sandbox).tunnel == policy_of(appliance, made).tunnel
    assert policy_of(appliance, forked.sandbox).revision != policy_of(appliance, made).revision

    await appliance.master.pause_sandbox(made.sandbox_id, NewPause())
    await appliance.master.secrets.update("one", SecretUpdate(team_id=team_id, value="second"))
    await appliance.master.resume_sandbox(made.sandbox_id, NewResume(timeout_s=60))
    (resume,) = appliance.node.resumes[made.sandbox_id]
    assert resume.network.header_rules[0].headers == {"Authorization": "second"}
    await becomes(appliance, forked.sandbox, "second")


async def test_a_change_of_a_secret_reaches_those_who_use_it_and_nobody_else(appliance: Appliance) -> None:
    team_id = await ready(appliance, one="first", two="other")
    made = await appliance.sandbox(team_id, rules=rules("${e2b.secrets.One}"))
    other = await appliance.sandbox(team_id, rules=rules("${e2b.secrets.two}"))
    await appliance.beat()
    assert appliance.node.policies == {}

    await appliance.master.secrets.update("one", SecretUpdate(team_id=team_id, value="second"))
    await becomes(appliance, made, "second")
    await appliance.master.secrets.delete("one", team_id=team_id)
    await becomes(appliance, made, 'refused: the secret "one" does not exist')
    await appliance.master.secrets.create(NewSecret(team_id=team_id, name="ONE", value="third\n"))
    await becomes(
        appliance, made, 'refused: the secret "one" has characters that no header can hold, such as a line end'
    )
    await appliance.master.secrets.update("one", SecretUpdate(team_id=team_id, value="fourth"))
    await becomes(appliance, made, "fourth")
    assert other.sandbox_id not in appliance.node.policies


async def test_what_is_sealed_is_gone_with_the_sandbox(appliance: Appliance) -> None:
    team_id = await ready(appliance)
    made = await appliance.sandbox(team_id, rules=rules(CANARY))
    await appliance.master.kill_sandbox(made.sandbox_id)
    assert appliance.db.execute("SELECT sealed_rules FROM sandboxes", database=DATABASE) == [(None,)]
    assert (await appliance.master.get_sandbox(made.sandbox_id, ended=True)).rules == {}


async def test_rules_that_do_not_open_are_not_taken_for_none(appliance: Appliance) -> None:
    team_id = await ready(appliance)
    made = await appliance.sandbox(team_id, rules=rules(CANARY))
    other = await appliance.sandbox(team_id, rules=rules("other"))
    await appliance.master.pause_sandbox(made.sandbox_id, NewPause())
    swap = (
        "UPDATE sandboxes a JOIN sandboxes b ON a.sandbox_id != b.sandbox_id SET a.sealed_rules = b.sealed_rules "
        f"WHERE b.sandbox_id = '{other.sandbox_id}'"
    )
    appliance.db.execute(swap, database=DATABASE)
    with pytest.raises(errors.CubeError, match="cannot be opened"):
        await appliance.master.resume_sandbox(made.sandbox_id, NewResume(timeout_s=60))
    assert appliance.node.resumes == {}


TOKENS = {"aws": WorkloadToken(audience="sts.amazonaws.com", token_type="JWT-SVID")}


def signed(appliance: Appliance, sandbox: SandboxView) -> str:
    return authorization(appliance, sandbox).removeprefix("Bearer ")


async def test_a_workload_token_says_who_the_sandbox_is_and_public_keys_check_it(
    appliance: Appliance, api: httpx.AsyncClient
) -> None:
    team_id = await ready(appliance)
    made = await appliance.sandbox(team_id, rules=rules("Bearer ${e2b.identity.tokens.aws}"), workload_tokens=TOKENS)
    token = signed(appliance, made)

    known = await api.get("/.well-known/openid-configuration", headers={"X-API-Key": ""})
    assert known.headers["Cache-Control"] == "public, max-age=300"
    issuer = known.json()["issuer"]
    assert (issuer, known.json()["jwks_uri"]) == ("https://api.cube.app", f"{issuer}/.well-known/jwks.json")
    keys = await api.get("/.well-known/jwks.json", headers={"X-API-Key": ""})
    assert keys.headers["Cache-Control"] == "public, max-age=300"
    (key,) = jwt.PyJWKSet.from_json(keys.text).keys
    assert "d" not in keys.json()["keys"][0]
    assert jwt.get_unverified_header(token)["kid"] == key.key_id
    claims = jwt.decode(token, key, algorithms=["ES256"], audience="sts.amazonaws.com", issuer=issuer)
    assert claims["sub"] == f"spiffe://cube.app/team/{team_id}/sandbox/{made.sandbox_id}"
    assert claims["exp"] - claims["iat"] == 3600
    assert token not in dump(appliance)

    (forked,) = await appliance.master.fork_sandbox(made.sandbox_id, NewFork(timeout_s=60))
    assert forked.sandbox is not None
    theirs = jwt.decode(signed(appliance, forked.sandbox), key, algorithms=["ES256"], audience="sts.amazonaws.com")
    assert theirs["sub"].endswith(forked.sandbox.sandbox_id)
    assert theirs["jti"] != claims["jti"]


async def test_tokens_are_renewed_before_they_end_and_only_where_they_are_used(appliance: Appliance) -> None:
    team_id = await ready(appliance)
    using = rules("Bearer ${e2b.identity.tokens.aws}")
    made = await appliance.sandbox(team_id, rules=using, workload_tokens=TOKENS)
    idle = await appliance.sandbox(team_id, rules=rules("x"), workload_tokens=TOKENS)
    paused = await appliance.sandbox(team_id, rules=using, workload_tokens=TOKENS)
    await appliance.master.pause_sandbox(paused.sandbox_id, NewPause())
    first = signed(appliance, made)
    due = appliance.db.execute("SELECT tokens_due_at FROM sandboxes WHERE tokens_due_at IS NOT NULL", database=DATABASE)
    assert len(due) == 2
    assert all(one > datetime.now(UTC).replace(tzinfo=None) + RENEWED_AFTER / 2 for (one,) in due)

    appliance.db.execute("UPDATE sandboxes SET tokens_due_at = tokens_due_at - INTERVAL 21 MINUTE", database=DATABASE)

    async def renewed() -> bool:
        await appliance.beat()
        return signed(appliance, made) != first

    await eventually(renewed, within_s=30)
    assert appliance.node.policies.keys() == {made.sandbox_id}
    assert idle.sandbox_id in appliance.node.sandboxes
    # Put to its next time, so that this happens once.
    later = datetime.now(UTC).replace(tzinfo=None) + timedelta(minutes=15)
    (row,) = appliance.db.execute(
        f"SELECT tokens_due_at FROM sandboxes WHERE sandbox_id = '{made.sandbox_id}'", database=DATABASE
    )
    assert row[0] > later


async def test_an_update_may_name_the_tokens_the_sandbox_was_made_with(appliance: Appliance) -> None:
    team_id = await ready(appliance)
    made = await appliance.sandbox(team_id, workload_tokens=TOKENS)
    await appliance.master.set_egress(made.sandbox_id, NewEgress(rules=rules("${e2b.identity.tokens.aws}")))
    assert jwt.get_unverified_header(signed(appliance, made))["alg"] == "ES256"


async def test_the_public_interface_takes_and_shows_all_of_it(appliance: Appliance, api: httpx.AsyncClient) -> None:
    await ready(appliance, one="value")
    proxy = {
        "address": "proxy.example.com:1080",
        "username": "user",
        "tls": {"enabled": True, "serverName": "other.example.com"},
    }
    network = {
        "allowOut": ["a.com"],
        "denyOut": ["0.0.0.0/0"],
        "dnsServers": ["1.1.1.1"],
        "egressProxy": {**proxy, "password": CANARY},
        "rules": {"a.com": [{"transform": {"headers": {"X": "${e2b.secrets.one} ${e2b.identity.tokens.aws}"}}}]},
    }
    iam = {"tokens": {"aws": {"audience": "sts", "tokenType": "JWT-SVID"}}}
    created = await api.post("/v2/sandboxes", json={"templateID": "base", "network": network, "iam": iam})
    assert created.status_code == 201, created.text
    path = f"/sandboxes/{created.json()['sandboxID']}"
    shown = await api.get(path)
    assert shown.json()["network"] == {"allowPublicTraffic": True, **network, "egressProxy": proxy}
    assert CANARY not in created.text + shown.text
    assert (await api.put(f"{path}/network", json={**network, "egressProxy": None})).status_code == 204
    assert "egressProxy" not in (await api.get(path)).json()["network"]
    assert (await api.put(f"{path}/network", json={})).status_code == 204
    assert (await api.get(path)).json()["network"] == {"allowPublicTraffic": True}


@pytest.mark.parametrize(
    "body",
    [
        {"network": {"rules": {"a.com": [{"transform": {"headers": {"X": [CANARY]}}}]}}},
        {"network": {"rules": {"a.com": [{"transform": {"headers": {"X": f"{CANARY}\n"}}}]}}},
        {"network": {"rules": {"a.com": [{"transform": {"headers": {"X": f"{CANARY}\ud800"}}}]}}},
        {"network": {"egressProxy": {"address": "a.com:1", "password": CANARY}}},
        {"network": {"egressProxy": {"address": "a.com:1", "username": "u", "password": {"a": CANARY}}}},
        {"network": {"egressProxy": {"address": "a.com:1", "tls": {"enabled": True, "caCert": CANARY}}}},
        {"iam": {"tokens": {"aws": {"audience": "sts"}}}},
        {"iam": {"tokens": {"aws": {"tokenType": "JWT-SVID"}}}},
    ],
)
async def test_a_refusal_repeats_no_credential(appliance: Appliance, api: httpx.AsyncClient, body: Any) -> None:
    await ready(appliance)
    # Escapes halves of surrogate pairs, as no client library would send them.
    content = json.dumps({"templateID": "base", **body})
    response = await api.post("/v2/sandboxes", content=content, headers={"Content-Type": "application/json"})
    assert response.status_code == 400, response.text
    assert CANARY not in response.text
