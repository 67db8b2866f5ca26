"""The network of one pull: a namespace of its own, out of which nothing leads but `way_out`.

A proxy alone is not enough: a client does not ask it for what it takes for its own machine, and a registry may redirect
there.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from ipaddress import IPv4Network, ip_address

from appliance.common.threads import in_thread
from appliance.domain.errors import ImageRejected
from appliance.storage.lonely_network import make_lonely_network
from appliance.storage.way_out import Destinations, Resolve, WayOut, resolve

_HTTPS = 443
_PROXY = ("127.255.255.254", 3128)
"""Where no registry is."""


@dataclass(frozen=True, slots=True)
class Reach:
    """Which registries a node pulls from: those of the public internet, and these."""

    internal: frozenset[str] = frozenset()
    """`host[:port]`, as references to images spell them."""
    denied: Sequence[IPv4Network] = ()
    """Networks of the node's own, on whatever addresses."""
    resolve: Resolve = resolve

    def destinations(self, host: str) -> Destinations:
        """Return where a pull from `host[:port]` may lead to.

        To internal registries only from one of them: what a public registry redirects to is a stranger's choice.
        """
        internal = frozenset(map(_parsed, self.internal)) if host in self.internal else frozenset()
        return Destinations(internal, self.denied, self.resolve)


@dataclass(frozen=True, slots=True)
class PullNetwork:
    entered_by: Sequence[str]
    """How an argv begins whose program runs inside."""
    environment: Mapping[str, str]
    way_out: WayOut

    def rejection(self) -> ImageRejected | None:
        """Return why the pull was refused a connection, if it was."""
        return None if self.way_out.refused is None else _rejection(self.way_out.refused)


@asynccontextmanager
async def pull_network(host: str, reach: Reach) -> AsyncIterator[PullNetwork]:
    """Yield a network for a pull from `host[:port]`. Raises `ImageRejected` where there is no need to try, or OSError.

    Without root there are no namespaces, and what the client takes for its own machine it reaches.
    """
    name, port = _parsed(host)
    on_loopback = _is_loopback(name)
    if on_loopback and host not in reach.internal:
        raise _rejection(f"'{host}' is this node")
    way = WayOut(reach.destinations(host))
    with ExitStack() as stack:
        entered_by: Sequence[str] = ()
        if os.geteuid() == 0:
            own = [("127.0.0.1" if name == "localhost" else name, port)] if on_loopback else []
            network = await in_thread(make_lonely_network, [_PROXY, *own], stack)
            entered_by = network.entered_by
            proxy, *relays = network.listeners
        else:
            proxy, relays = stack.enter_context(socket.create_server(("127.0.0.1", 0))), []
            proxy.setblocking(False)
        address, proxy_port = proxy.getsockname()
        serving = [asyncio.create_task(way.proxy(proxy))]
        serving += [asyncio.create_task(way.relay(relay, name, port)) for relay in relays]
        url = f"http://{address}:{proxy_port}"
        try:
            yield PullNetwork(entered_by, {"HTTPS_PROXY": url, "HTTP_PROXY": url}, way)
        finally:
            for task in serving:
                task.cancel()
            await asyncio.gather(*serving, return_exceptions=True)


def _parsed(host: str) -> tuple[str, int]:
    name, _, port = host.partition(":")
    return name.lower(), int(port) if port else _HTTPS


def _is_loopback(name: str) -> bool:
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


def _rejection(reason: str) -> ImageRejected:
    return ImageRejected(
        "internal-address",
        f"{reason}; an operator can allow a registry on an internal address with internal_registries in cubelet.toml",
    )
