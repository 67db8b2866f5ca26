"""The egress proxy's user may read where flows were sent, and nothing else of the switch's."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import chdir, contextmanager
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from appliance.cubevs.egress.originals import DivertedFlows
from appliance.cubevs.kernel import BpfMap
from appliance.cubevs.maps import SHAPES, Destination, DivertedKey, diverted_pin, maps_directory
from appliance.cubevs.switch import CubeVS
from tests.support.sandbox_net import Site

pytestmark = pytest.mark.root

PROXY_GROUP, OTHER_GROUP = 54321, 54322
NOBODY = 65534
HERE = Path()
FLOW, DESTINATION = DivertedKey(IPv4Address("10.88.0.2"), 5000, 10999), Destination(IPv4Address("1.2.3.4"), 22)


@contextmanager
def as_group(group: int) -> Iterator[None]:
    """Run the block without privileges, in a group."""
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(group)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


@pytest.fixture
async def shared(in_node: Site) -> AsyncIterator[Site]:
    """The switch started where the rules are a group's to read. The test stands in its file system."""
    os.chown(in_node.egress_rules, 0, PROXY_GROUP)
    await in_node.switch().start()
    BpfMap.open(diverted_pin(in_node.bpffs)).put(FLOW.pack(), DESTINATION.pack())
    with chdir(in_node.bpffs):
        yield in_node
    os.chown(in_node.egress_rules, 0, 0)


def test_the_proxy_finds_where_a_flow_was_sent(shared: Site) -> None:
    with as_group(PROXY_GROUP):
        flows = DivertedFlows(HERE)
        assert flows.destination(FLOW.tap_address, FLOW.guest_port, FLOW.proxy_port) == DESTINATION
        assert flows.destination(FLOW.tap_address, FLOW.guest_port + 1, FLOW.proxy_port) is None


def test_the_proxy_changes_nothing_and_opens_nothing_else(shared: Site) -> None:
    with as_group(PROXY_GROUP):
        with pytest.raises(PermissionError):
            BpfMap.open(diverted_pin(HERE))
        with pytest.raises(OSError, match="bpf map_update") as caught:
            BpfMap.open(diverted_pin(HERE), read_only=True).put(FLOW.pack(), DESTINATION.pack())
        assert caught.value.errno == errno.EPERM
        for name in SHAPES.keys() - {"diverted"}:
            with pytest.raises(PermissionError):
                BpfMap.open(maps_directory(HERE) / name, read_only=True)
        with pytest.raises(PermissionError):
            list(maps_directory(HERE).iterdir())


def test_others_are_told_nothing(shared: Site) -> None:
    with as_group(OTHER_GROUP):
        assert DivertedFlows(HERE).destination(FLOW.tap_address, FLOW.guest_port, FLOW.proxy_port) is None


def test_before_the_switch_has_started_nothing_is_known(tmp_path: Path) -> None:
    assert DivertedFlows(tmp_path).destination(FLOW.tap_address, FLOW.guest_port, FLOW.proxy_port) is None


async def test_a_second_start_changes_nothing(shared: Site, switch: CubeVS) -> None:
    status = diverted_pin(shared.bpffs).stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (0, PROXY_GROUP, 0o640)
