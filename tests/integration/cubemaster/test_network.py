"""A sandbox's network rules: kept in its row, enforced by its node, and told to the proxy."""

from __future__ import annotations

import asyncio
import hashlib
import hmac

import pytest

from appliance.contracts.master import NewConnect, NewEgress, NewPause, SandboxView
from appliance.contracts.node_network import NetworkPolicy
from appliance.domain import errors
from tests.integration.cubemaster.conftest import Appliance, eventually

DOMAINS_NEED_DENY_ALL = (
    "When specifying allowed domains in allow out, you must include 'ALL_TRAFFIC' in deny out"
    " to block all other traffic."
)
RULES = {"allow_internet": False, "allow_out": ("1.1.1.1", "8.8.0.0/16"), "deny_out": ("10.0.0.0/8",)}


def told(appliance: Appliance, sandbox: SandboxView) -> NetworkPolicy:
    """Return what the node heard last of a sandbox's rules, without their name."""
    node = appliance.node
    policy = node.policies.get(sandbox.sandbox_id) or node.requests[sandbox.sandbox_id].network
    return policy.model_copy(update={"revision": ""})


async def test_the_proxy_learns_a_digest_and_the_mask_and_never_the_token(appliance: Appliance) -> None:
    team_id, _ = await appliance.team(), await appliance.template()
    made = await appliance.sandbox(team_id, allow_public_traffic=False, mask_request_host="localhost:${PORT}")
    token = hmac.new(b"seed", f"sandbox-traffic-{made.sandbox_id}".encode(), hashlib.sha256).hexdigest()
    assert made.traffic_token == token
    route = await appliance.master.get_route(made.sandbox_id)
    assert route.traffic_token_sha256 == hashlib.sha256(token.encode()).hexdigest()
    assert route.mask_request_host == "localhost:${PORT}"
    with appliance.redis.client() as redis:
        stored = str(redis.get(f"cube:route:{made.sandbox_id}"))
    assert stored == route.model_dump_json()
    assert token not in stored
    (listed,) = (await appliance.master.list_sandboxes(team_id=team_id)).sandboxes
    assert listed.traffic_token is None


async def test_ports_that_serve_tls_are_told_to_the_proxy_and_outlive_new_rules_and_a_pause(
    appliance: Appliance,
) -> None:
    team_id, _ = await appliance.team(), await appliance.template()
    made = await appliance.sandbox(team_id, https_ports=(8443, 443))
    assert told(appliance, made) == NetworkPolicy()
    await appliance.master.set_egress(made.sandbox_id, NewEgress(team_id=team_id, deny_out=("0.0.0.0/0",)))
    await appliance.master.pause_sandbox(made.sandbox_id, NewPause())
    assert (await appliance.master.get_sandbox(made.sandbox_id)).https_ports == (8443, 443)
    await appliance.master.connect_sandbox(made.sandbox_id, NewConnect(timeout_s=60))
    assert (await appliance.master.get_route(made.sandbox_id)).https_ports == (8443, 443)


async def test_bad_rules_are_refused_before_anything_is_made(appliance: Appliance) -> None:
    team_id, _ = await appliance.team(), await appliance.template()
    for rules, message in (
        ({"deny_out": ["x"]}, "invalid denied CIDR x"),
        ({"allow_out": ["::1"]}, "invalid allowed address ::1"),
        (
            {"allow_out": ["a.b"], "deny_out": ["10.0.0.0/8"]},
            DOMAINS_NEED_DENY_ALL,
        ),
        ({"mask_request_host": "a b"}, "mask request host is not valid: a b"),
        ({"https_ports": [70000]}, "network.httpsPorts: 70000 is not a port; use 1 to 65535"),
    ):
        with pytest.raises(errors.InvalidRequest) as refused:
            await appliance.sandbox(team_id, **rules)
        assert refused.value.message == message
    assert appliance.node.requests == {}
    assert await appliance.reserved() == (0, 0)


async def test_rules_are_replaced_on_the_node_and_in_the_row(appliance: Appliance) -> None:
    team_id, _ = await appliance.team(), await appliance.template()
    made = await appliance.sandbox(team_id, mask_request_host="localhost", **RULES)
    asked = appliance.node.requests[made.sandbox_id].network
    assert asked == NetworkPolicy.model_validate({**RULES, "revision": asked.revision})

    await appliance.master.set_egress(made.sandbox_id, NewEgress(team_id=team_id, deny_out=("0.0.0.0/0",)))

    assert told(appliance, made) == NetworkPolicy(deny_out=("0.0.0.0/0",))
    assert appliance.node.policies[made.sandbox_id].revision not in {"", asked.revision}
    now = await appliance.master.get_sandbox(made.sandbox_id)
    assert (now.allow_internet, now.allow_out, now.deny_out) == (True, (), ("0.0.0.0/0",))
    assert now.mask_request_host == "localhost"


async def test_domains_are_kept_as_given_and_told_apart_for_the_node(appliance: Appliance) -> None:
    team_id, _ = await appliance.team(), await appliance.template()
    allowed = ("Example.com", "1.1.1.1", "*.example.com")
    denied = ("0.0.0.0/0",)
    policy = NetworkPolicy(allow_out=("1.1.1.1",), deny_out=denied, allow_domains=("Example.com", "*.example.com"))
    made = await appliance.sandbox(team_id, allow_out=allowed, deny_out=denied)
    assert told(appliance, made) == policy
    assert (await appliance.master.get_sandbox(made.sandbox_id)).allow_out == allowed

    updated = await appliance.sandbox(team_id)
    new = NewEgress(team_id=team_id, allow_out=allowed, deny_out=denied)
    await appliance.master.set_egress(updated.sandbox_id, new)
    assert told(appliance, updated) == policy
    assert (await appliance.master.get_sandbox(updated.sandbox_id)).allow_out == allowed


async def test_a_bad_update_changes_nothing(appliance: Appliance) -> None:
    team_id, _ = await appliance.team(), await appliance.template()
    made = await appliance.sandbox(team_id, **RULES)
    with pytest.raises(errors.InvalidRequest, match="invalid denied CIDR nonsense"):
        await appliance.master.set_egress(made.sandbox_id, NewEgress(team_id=team_id, deny_out=("nonsense",)))
    assert (await appliance.master.get_sandbox(made.sandbox_id)).allow_out == RULES["allow_out"]
    assert appliance.node.policies == {}


async def test_only_its_team_may_change_it_and_only_while_it_lives(appliance: Appliance) -> None:
    team_id, other, _ = await appliance.team(), await appliance.team("other"), await appliance.template()
    made = await appliance.sandbox(team_id)
    with pytest.raises(errors.SandboxNotFound):
        await appliance.master.set_egress(made.sandbox_id, NewEgress(team_id=other))
    await appliance.master.kill_sandbox(made.sandbox_id)
    with pytest.raises(errors.SandboxNotFound):
        await appliance.master.set_egress(made.sandbox_id, NewEgress(team_id=team_id))


async def test_a_node_that_does_not_answer_is_a_failure_that_may_be_repeated(appliance: Appliance) -> None:
    team_id, _ = await appliance.team(), await appliance.template()
    made = await appliance.sandbox(team_id)
    appliance.node.fail_network = errors.Unavailable("stopping")
    with pytest.raises(errors.NodeUnreachable):
        await appliance.master.set_egress(made.sandbox_id, NewEgress(allow_internet=False))
    appliance.node.fail_network = None
    await appliance.master.set_egress(made.sandbox_id, NewEgress(allow_internet=False))
    assert told(appliance, made) == NetworkPolicy(allow_internet=False)


async def test_rules_that_its_node_did_not_take_are_sent_again_and_others_are_not(appliance: Appliance) -> None:
    team_id, _ = await appliance.team(), await appliance.template()
    other = await appliance.sandbox(team_id, **RULES)
    made = await appliance.sandbox(team_id)
    appliance.node.fail_network = errors.NetworkFailure("no room in the map")
    with pytest.raises(errors.NetworkFailure):
        await appliance.master.set_egress(made.sandbox_id, NewEgress(allow_internet=False))
    await appliance.beat()
    appliance.node.fail_network = None

    async def in_force() -> bool:
        await appliance.beat()
        return made.sandbox_id in appliance.node.policies

    await eventually(in_force)
    assert appliance.node.policies.keys() == {made.sandbox_id}
    assert told(appliance, made) == NetworkPolicy(allow_internet=False)
    assert other.sandbox_id in appliance.node.sandboxes


async def test_updates_side_by_side_leave_row_and_node_agreed(appliance: Appliance) -> None:
    team_id, _ = await appliance.team(), await appliance.template()
    made = await appliance.sandbox(team_id)
    updates = (NewEgress(deny_out=(f"10.0.{n}.0/24",)) for n in range(8))
    done = await asyncio.gather(
        *(appliance.master.set_egress(made.sandbox_id, one) for one in updates), return_exceptions=True
    )
    assert all(one is None or isinstance(one, errors.Conflict) for one in done)
    row = await appliance.master.get_sandbox(made.sandbox_id)
    assert appliance.node.policies[made.sandbox_id].deny_out == row.deny_out
