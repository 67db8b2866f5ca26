"""What the switch leaves for the egress proxy follows the admissions of its taps."""

from __future__ import annotations

import errno
from dataclasses import replace
from ipaddress import IPv4Network

import pytest

from appliance.cubevs.base import EgressPolicy
from appliance.cubevs.egress import rule_files
from appliance.cubevs.kernel import BpfMap
from appliance.cubevs.switch import DEFAULT_DENIED_NETWORKS, CubeVS
from appliance.domain.errors import NetworkFailure
from appliance.domain.ids import new_sandbox_id
from tests.support.sandbox_net import Site

pytestmark = pytest.mark.root

BY_DOMAIN = EgressPolicy(
    allow=(IPv4Network("1.1.1.1/32"),), deny=(IPv4Network("0.0.0.0/0"),), allow_domains=("example.com", "*.org")
)


async def test_rules_by_domain_are_published_with_all_that_decides_about_them(switch: CubeVS, in_node: Site) -> None:
    tap = await switch.create_tap()
    sandbox_id = new_sandbox_id()
    await switch.admit(tap, sandbox_id, BY_DOMAIN)
    found = rule_files.read(in_node.egress_rules, tap.address)
    assert found is not None
    assert (found.sandbox_id, found.allow_domains) == (sandbox_id, BY_DOMAIN.allow_domains)
    assert (found.sandbox_network, found.denied_networks) == (IPv4Network("10.88.0.0/16"), DEFAULT_DENIED_NETWORKS)


async def test_rules_go_with_the_policy_and_with_the_tap(switch: CubeVS, in_node: Site) -> None:
    tap, other = await switch.create_tap(), await switch.create_tap()
    for admitted in (tap, other):
        await switch.admit(admitted, new_sandbox_id(), BY_DOMAIN)
    assert rule_files.published(in_node.egress_rules) == {tap.address, other.address}
    await switch.admit(tap, new_sandbox_id(), EgressPolicy())
    assert rule_files.published(in_node.egress_rules) == {other.address}
    await switch.revoke(other)
    assert rule_files.published(in_node.egress_rules) == set()
    await switch.admit(other, new_sandbox_id(), BY_DOMAIN)
    await switch.delete_tap(other)
    assert rule_files.published(in_node.egress_rules) == set()


async def test_a_new_switch_keeps_the_rules_of_admitted_taps_only(switch: CubeVS, in_node: Site) -> None:
    tap, unadmitted = await switch.create_tap(), await switch.create_tap()
    await switch.admit(tap, new_sandbox_id(), BY_DOMAIN)
    rules = rule_files.read(in_node.egress_rules, tap.address)
    assert rules is not None
    for left in (unadmitted.address, unadmitted.address + 1):  # a Cubelet died between publishing and admitting
        rule_files.publish(in_node.egress_rules, left, rules)
    await in_node.switch().start()
    assert rule_files.published(in_node.egress_rules) == {tap.address}
    assert rule_files.read(in_node.egress_rules, tap.address) == rules


@pytest.mark.parametrize("former", [BY_DOMAIN, EgressPolicy()], ids=["by domain", "by address"])
async def test_rules_that_cannot_be_written_leave_the_former_ones(
    switch: CubeVS, in_node: Site, monkeypatch: pytest.MonkeyPatch, former: EgressPolicy
) -> None:
    tap = await switch.create_tap()
    await switch.admit(tap, new_sandbox_id(), former)
    before = rule_files.read(in_node.egress_rules, tap.address)
    put = BpfMap.put

    def without_taps(self: BpfMap, key: bytes, value: bytes) -> None:
        if len(key) == 4:
            raise OSError(errno.ENOSPC, "no room")
        put(self, key, value)

    monkeypatch.setattr(BpfMap, "put", without_taps)
    with pytest.raises(NetworkFailure, match="cannot write the network rules"):
        await switch.admit(tap, new_sandbox_id(), replace(BY_DOMAIN, allow_domains=("other.org",)))
    monkeypatch.undo()
    assert rule_files.read(in_node.egress_rules, tap.address) == before


async def test_without_a_place_for_the_rules_nobody_is_admitted_by_domain(switch: CubeVS, in_node: Site) -> None:
    tap = await switch.create_tap()
    in_node.egress_rules.rename(in_node.egress_rules.with_name("away"))
    try:
        with pytest.raises(NetworkFailure, match="cannot write the network rules"):
            await switch.admit(tap, new_sandbox_id(), BY_DOMAIN)
        await switch.admit(tap, new_sandbox_id(), EgressPolicy())
    finally:
        in_node.egress_rules.with_name("away").rename(in_node.egress_rules)
