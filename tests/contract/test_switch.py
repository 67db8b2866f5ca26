"""What every `Switch` promises, shown on the fake and on the real one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509

from appliance.cubevs.base import DropReason, EgressPolicy, Switch, Tap
from appliance.cubevs.fake import FakeSwitch
from appliance.domain.egress import HeaderRule, Tunnel
from appliance.domain.errors import NetworkFailure
from appliance.domain.ids import new_sandbox_id
from tests.support.sandbox_net import site


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.root)])
def stopped_switch(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Switch]:
    if request.param == "fake":
        yield FakeSwitch()
        return
    with site(tmp_path) as place, place.node.entered():
        yield place.switch()


@pytest.fixture
async def switch(stopped_switch: Switch) -> Switch:
    await stopped_switch.start()
    return stopped_switch


@pytest.fixture
async def tap(switch: Switch) -> Tap:
    return await switch.create_tap()


async def test_nothing_works_before_start(stopped_switch: Switch) -> None:
    with pytest.raises(NetworkFailure, match="not started"):
        await stopped_switch.create_tap()
    with pytest.raises(NetworkFailure, match="not started"):
        stopped_switch.trusted_certificate(new_sandbox_id())


async def test_start_may_be_repeated(switch: Switch, tap: Tap) -> None:
    await switch.start()
    assert await switch.taps() == (tap,)


async def test_taps_have_the_nodes_names_and_addresses(switch: Switch) -> None:
    made = [await switch.create_tap() for _ in range(3)]
    assert [(tap.name, str(tap.address)) for tap in made] == [
        ("cubetap1", "10.88.0.2"),
        ("cubetap2", "10.88.0.3"),
        ("cubetap3", "10.88.0.4"),
    ]
    assert await switch.taps() == tuple(made)


async def test_a_freed_address_is_used_again(switch: Switch) -> None:
    first = await switch.create_tap()
    second = await switch.create_tap()
    await switch.delete_tap(first)
    third = await switch.create_tap()
    assert (third.name, third.address) == (first.name, first.address)
    assert third.ifindex != first.ifindex
    assert await switch.taps() == (third, second)


async def test_the_descriptor_of_a_tap_can_be_inherited(switch: Switch, tap: Tap) -> None:
    fd = switch.open_tap(tap)
    try:
        assert os.get_inheritable(fd)
    finally:
        os.close(fd)


async def test_admission_may_be_replaced(switch: Switch, tap: Tap) -> None:
    await switch.admit(tap, new_sandbox_id(), EgressPolicy())
    await switch.admit(tap, new_sandbox_id(), EgressPolicy(allow_internet=False))
    await switch.admit(tap, new_sandbox_id(), EgressPolicy(allow_domains=("example.com",)))
    await switch.admit(tap, new_sandbox_id(), EgressPolicy(tunnel=Tunnel("proxy.example.com", 1080)))
    await switch.admit(tap, new_sandbox_id(), EgressPolicy(header_rules=(HeaderRule("example.com", {"X": "y"}),)))
    await switch.admit(tap, new_sandbox_id(), EgressPolicy(name_service=False))
    await switch.admit(tap, new_sandbox_id(), EgressPolicy(header_rules=(HeaderRule("example.com", {"X-Key": "a"}),)))


async def test_each_sandbox_has_an_authority_of_its_own_and_keeps_it(switch: Switch) -> None:
    one, other = new_sandbox_id(), new_sandbox_id()
    trusted = switch.trusted_certificate(one)
    assert x509.load_pem_x509_certificate(trusted.encode()).extensions.get_extension_for_class(x509.BasicConstraints)
    assert switch.trusted_certificate(other) != trusted
    await switch.start()
    assert switch.trusted_certificate(one) == trusted


async def test_revoke_may_be_repeated_and_followed_by_another_sandbox(switch: Switch, tap: Tap) -> None:
    await switch.admit(tap, new_sandbox_id(), EgressPolicy())
    await switch.revoke(tap)
    await switch.revoke(tap)
    await switch.admit(tap, new_sandbox_id(), EgressPolicy())


async def test_deleting_an_admitted_tap_and_an_absent_one(switch: Switch, tap: Tap) -> None:
    await switch.admit(tap, new_sandbox_id(), EgressPolicy())
    await switch.delete_tap(tap)
    await switch.delete_tap(tap)
    assert await switch.taps() == ()


async def test_a_deleted_tap_is_refused(switch: Switch, tap: Tap) -> None:
    await switch.delete_tap(tap)
    successor = await switch.create_tap()
    assert successor.name == tap.name
    with pytest.raises(NetworkFailure):
        await switch.admit(tap, new_sandbox_id(), EgressPolicy())
    with pytest.raises(NetworkFailure):
        switch.open_tap(tap)
    await switch.revoke(tap)
    await switch.delete_tap(tap)
    assert await switch.taps() == (successor,)


async def test_drops_name_every_reason(switch: Switch) -> None:
    assert set(await switch.drops()) == set(DropReason)
    await switch.reap()
