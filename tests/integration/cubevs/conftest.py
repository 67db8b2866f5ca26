"""One node and world a module; a fresh tap, or a guest behind one, a test."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from appliance.cubevs.base import EgressPolicy, Tap
from appliance.cubevs.egress.proxy import Limits
from appliance.cubevs.maps import open_maps
from appliance.cubevs.switch import CubeVS
from appliance.domain.ids import new_sandbox_id
from tests.integration.cubevs.egress_proxy import LIMITS, Egress, running_egress
from tests.integration.cubevs.port import Port
from tests.support.sandbox_net import Guest, Site, guest, site

MakeGuest = Callable[..., Awaitable[tuple[Tap, Guest]]]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with site(tmp_path_factory.mktemp("site")) as made:
        yield made


@pytest.fixture
def in_node(place: Site) -> Iterator[Site]:
    """Put the test into the node's network namespace."""
    with place.node.entered():
        yield place


@pytest.fixture
async def switch(in_node: Site) -> AsyncIterator[CubeVS]:
    started = in_node.switch()
    await started.start()
    yield started
    for tap in await started.taps():
        await started.delete_tap(tap)


@pytest.fixture
async def make_guest(switch: CubeVS) -> AsyncIterator[MakeGuest]:
    """Return a maker of guests: admitted under a policy (default: internet), or not at all with `policy=None`."""
    numbers = itertools.count(1)
    with ExitStack() as stack:

        async def make(
            policy: EgressPolicy | None = EgressPolicy(),  # noqa: B008 - frozen
            *,
            offloads: bool = True,
        ) -> tuple[Tap, Guest]:
            tap = await switch.create_tap()
            if policy is not None:
                await switch.admit(tap, new_sandbox_id(), policy)
            behind = stack.enter_context(guest(switch.open_tap(tap), f"guest{next(numbers)}", offloads=offloads))
            return tap, behind

        yield make


@pytest.fixture
async def make_port(switch: CubeVS, in_node: Site) -> AsyncIterator[Callable[[], Awaitable[Port]]]:
    maps = open_maps(in_node.bpffs / "v1" / "maps", sessions_per_tap=16)
    with ExitStack() as stack:

        async def make() -> Port:
            return stack.enter_context(closing(Port(await switch.create_tap(), in_node, maps)))

        yield make


@pytest.fixture
async def unadmitted(make_port: Callable[[], Awaitable[Port]]) -> Port:
    return await make_port()


@pytest.fixture
async def port(switch: CubeVS, unadmitted: Port) -> Port:
    await switch.admit(unadmitted.tap, new_sandbox_id(), EgressPolicy())
    return unadmitted


@pytest.fixture
def limits() -> Limits:
    return LIMITS


@pytest.fixture
async def egress(switch: CubeVS, in_node: Site, tmp_path: Path, limits: Limits) -> AsyncIterator[Egress]:
    """The egress proxy, for tests that want nothing of it but other limits."""
    async with running_egress(in_node, tmp_path, limits=limits) as running:
        yield running


@pytest.fixture(name="guest")
def guest_of_sandbox(sandbox: tuple[Tap, Guest]) -> Guest:
    """The guest of the module's `sandbox`."""
    return sandbox[1]
