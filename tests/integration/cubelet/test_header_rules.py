"""Sandboxes whose requests get headers: their guests trust who adds them, and what is added is on no disk."""

from __future__ import annotations

import pytest

from appliance.clients.node import NodeClient
from appliance.contracts.node import Pause, Rollback, Snapshot
from appliance.contracts.node_network import HeaderRule, NetworkPolicy
from appliance.cubevs.base import EgressPolicy
from appliance.domain.errors import GuestFailure
from appliance.domain.ids import SandboxId
from tests.integration.cubelet.conftest import FakeMachineRoom, built, created
from tests.integration.cubelet.test_pausing import FULL, again

CANARY = "hush-5f1c0e"
HEADERS = NetworkPolicy(
    deny_out=("0.0.0.0/0",),
    allow_domains=("example.com",),
    header_rules=(HeaderRule(domain="example.com", headers={"Authorization": CANARY}),),
    revision="with headers",
)


def policy_of(node: FakeMachineRoom, sandbox_id: str) -> EgressPolicy:
    tap = node.record_of(sandbox_id).tap
    assert tap is not None
    admission = node.switch.admission(tap)
    assert admission is not None
    return admission.policy


def bundle_of(node: FakeMachineRoom, sandbox_id: str) -> str | None:
    """Return what the last /init told the guest to trust."""
    found = node.guests.identities_of(sandbox_id)[-1].get("caBundle")
    assert found is None or isinstance(found, str)
    return found


async def test_a_guest_is_told_at_every_beginning_what_to_trust(node: FakeMachineRoom, cubelet: NodeClient) -> None:
    sandbox_id = await created(cubelet, await built(cubelet), network=HEADERS)
    trusted = node.switch.trusted_certificate(SandboxId(sandbox_id))
    assert bundle_of(node, sandbox_id) == trusted
    assert policy_of(node, sandbox_id).header_rules[0].headers == {"Authorization": CANARY}

    await cubelet.pause_sandbox(sandbox_id, FULL)
    await cubelet.resume_sandbox(sandbox_id, again(network=HEADERS))
    await cubelet.snapshot_sandbox(sandbox_id, Snapshot(template_id="snap", build_id="the-snapshot"))
    await cubelet.roll_back_sandbox(sandbox_id, Rollback(build_id="the-snapshot", network=HEADERS))
    assert [body.get("caBundle") for body in node.guests.identities_of(sandbox_id)] == [trusted] * 3

    fork = await created(cubelet, "the-snapshot", network=HEADERS)
    assert bundle_of(node, fork) == node.switch.trusted_certificate(SandboxId(fork)) != trusted


async def test_a_guest_without_header_rules_is_told_nothing(node: FakeMachineRoom, cubelet: NodeClient) -> None:
    sandbox_id = await created(cubelet, await built(cubelet))
    assert bundle_of(node, sandbox_id) is None
    await cubelet.set_network(sandbox_id, NetworkPolicy(allow_internet=False))
    assert node.guests.trusted == []


async def test_a_running_guest_is_told_once_before_the_rules_come_into_force(
    node: FakeMachineRoom, cubelet: NodeClient
) -> None:
    sandbox_id = await created(cubelet, await built(cubelet))
    for network in (HEADERS, HEADERS, NetworkPolicy(), HEADERS):
        await cubelet.set_network(sandbox_id, network)
    assert node.guests.trusted == [(sandbox_id, node.switch.trusted_certificate(SandboxId(sandbox_id)))]
    await cubelet.pause_sandbox(sandbox_id, FULL)
    await cubelet.resume_sandbox(sandbox_id, again(network=NetworkPolicy()))
    await cubelet.set_network(sandbox_id, HEADERS)
    assert len(node.guests.trusted) == 2, "its next beginning may have been from anywhere"


async def test_a_guest_that_does_not_answer_leaves_its_rules_as_they_were(
    node: FakeMachineRoom, cubelet: NodeClient
) -> None:
    sandbox_id = await created(cubelet, await built(cubelet), network=NetworkPolicy(revision="first"))
    node.guests.stall_trust = True
    with pytest.raises(GuestFailure, match=f"rules of sandbox '{sandbox_id}' stay as they were: its guest could not"):
        await cubelet.set_network(sandbox_id, HEADERS)
    assert policy_of(node, sandbox_id) == EgressPolicy(revision="first")
    assert (await cubelet.get_sandbox(sandbox_id)).network_revision == "first"
    node.guests.stall_trust = False
    await cubelet.set_network(sandbox_id, HEADERS)
    assert (await cubelet.get_sandbox(sandbox_id)).network_revision == "with headers"


async def test_what_is_added_is_on_no_disk_and_in_no_log(
    node: FakeMachineRoom, cubelet: NodeClient, capfd: pytest.CaptureFixture[str]
) -> None:
    build_id = await built(cubelet)
    sandbox_id = await created(cubelet, build_id, network=HEADERS)
    await cubelet.pause_sandbox(sandbox_id, FULL)
    await cubelet.resume_sandbox(sandbox_id, again(network=HEADERS))
    await cubelet.set_network(sandbox_id, HEADERS)
    node.guests.refuse_owners = True
    with pytest.raises(GuestFailure):
        await created(cubelet, build_id, network=HEADERS)
    assert CANARY not in repr(HEADERS) + repr(policy_of(node, sandbox_id))
    await cubelet.snapshot_sandbox(sandbox_id, Snapshot(template_id="snap", build_id="the-snapshot"))
    await cubelet.pause_sandbox(sandbox_id, Pause(memory=False))
    files = [path for path in node.directory.rglob("*") if path.is_file()]
    assert files
    for path in files:
        assert CANARY.encode() not in path.read_bytes(), path
    said = capfd.readouterr()
    assert CANARY not in said.out + said.err
