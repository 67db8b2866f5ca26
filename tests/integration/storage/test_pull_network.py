"""What a pull reaches, with skopeo itself and a registry that answers whatever its name is."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address
from pathlib import Path

import pytest

from appliance.domain.errors import ImageRejected, StorageFailure
from appliance.domain.registry_login import RegistryLogin
from appliance.storage.layers import LocalImageStore
from appliance.storage.pull_network import Reach, pull_network
from tests.support.oci_images import E, tar_bytes, write_layout
from tests.support.tiny_registry import TinyRegistry, make_certificate, serving

_LOGIN = RegistryLogin("u", "p")


class Names:
    """Every name means what it is told to, and is counted."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = [ip_address(address) for address in addresses]
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> Sequence[IPv4Address | IPv6Address]:
        self.asked.append(f"{host}:{port}")
        return self.addresses


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[TinyRegistry]:
    write_layout(tmp_path / "image", [tar_bytes([E("f", data=b"1")])])
    certificate = make_certificate(tmp_path)
    with serving(tmp_path / "image", username="u", password="p", certificate=certificate) as serving_registry:
        yield serving_registry


@pytest.fixture
def other(tmp_path: Path) -> Iterator[TinyRegistry]:
    """A service of the node, on the same loopback."""
    with serving(tmp_path / "image", username="u", password="p") as serving_registry:
        yield serving_registry


async def pull(host: str, directory: Path, reach: Reach) -> None:
    store = LocalImageStore(directory / "layers", insecure_registries=frozenset({host}), reach=reach)
    await store.import_image(f"{host}/demo:1", login=_LOGIN)


async def test_a_registry_that_is_allowed_by_its_name_is_reached_through_the_proxy(
    registry: TinyRegistry, searchable_path: Path
) -> None:
    host, names = f"registry.test:{registry.port}", Names("127.0.0.1")
    await pull(host, searchable_path, Reach(internal=frozenset({host}), resolve=names))
    assert set(names.asked) == {host}
    assert any("/blobs/" in path for path in registry.served)


@pytest.mark.parametrize(
    "addresses",
    [["127.0.0.1"], ["10.0.0.1"], ["169.254.169.254"], ["224.0.0.1"], ["::1"], ["::ffff:10.0.0.1"], ["1.1.1.1", "::1"]],
)
async def test_a_public_name_that_leads_inside_is_refused(
    registry: TinyRegistry, searchable_path: Path, addresses: list[str]
) -> None:
    with pytest.raises(ImageRejected, match=r"'registry\.example' has an address that is not a public one") as raised:
        await pull(f"registry.example:{registry.port}", searchable_path, Reach(resolve=Names(*addresses)))
    assert raised.value.rule == "internal-address"
    assert "internal_registries in cubelet.toml" in raised.value.message
    assert registry.served == []


async def test_networks_of_the_node_are_refused_whatever_their_addresses_are(searchable_path: Path) -> None:
    reach = Reach(denied=[IPv4Network("198.18.0.0/15"), IPv4Network("8.8.8.0/24")], resolve=Names("8.8.8.8"))
    with pytest.raises(ImageRejected, match="not a public one"):
        await pull("registry.example", searchable_path, reach)


async def test_a_redirect_to_a_name_that_leads_inside_is_refused(
    registry: TinyRegistry, other: TinyRegistry, searchable_path: Path
) -> None:
    host, names = f"registry.test:{registry.port}", Names("127.0.0.1")
    registry.blobs_elsewhere = f"https://cdn.example:{other.port}/blob"
    with pytest.raises(ImageRejected, match=r"'cdn\.example' has an address that is not a public one"):
        await pull(host, searchable_path, Reach(internal=frozenset({host}), resolve=names))


@pytest.mark.root
@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
async def test_a_redirect_to_the_nodes_own_loopback_does_not_leave_the_pulls(
    registry: TinyRegistry, other: TinyRegistry, searchable_path: Path, name: str
) -> None:
    """Go's clients ask no proxy for these."""
    host = f"registry.test:{registry.port}"
    registry.blobs_elsewhere = f"http://{name}:{other.port}/v2/"
    with pytest.raises(StorageFailure, match="connection refused"):
        await pull(host, searchable_path, Reach(internal=frozenset({host}), resolve=Names("127.0.0.1")))
    assert other.served == []


async def test_a_redirect_from_a_public_registry_does_not_lead_to_an_internal_one(registry: TinyRegistry) -> None:
    internal = f"registry.test:{registry.port}"
    reach = Reach(internal=frozenset({internal}), resolve=Names("127.0.0.1"))
    assert reach.destinations(internal).internal
    assert not reach.destinations("registry.example").internal


async def test_what_is_looked_up_is_what_is_connected_to(registry: TinyRegistry) -> None:
    host, names = f"registry.test:{registry.port}", Names("127.0.0.1")
    _, writer = (
        await Reach(internal=frozenset({host}), resolve=names)
        .destinations(host)
        .connect("registry.test", registry.port)
    )
    writer.close()
    await writer.wait_closed()
    assert names.asked == [host]


async def test_the_nodes_own_address_is_no_registry(searchable_path: Path) -> None:
    with pytest.raises(ImageRejected, match="is this node"):
        await pull("127.0.0.1:5000", searchable_path, Reach())


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"GET http://registry.example/ HTTP/1.1", b"405"),
        (b"CONNECT registry.example HTTP/1.1", b"405"),
        (b"CONNECT registry.example:443 HTTP/1.1", b"403"),
        (b"CONNECT registry..example:443 HTTP/1.1", b"403"),
        (b"CONNECT [::1]:443 HTTP/1.1", b"403"),
    ],
)
async def test_the_proxy_serves_nothing_else(
    request_line: bytes, status: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without root the proxy is where this test can reach it.
    monkeypatch.setattr("appliance.storage.pull_network.os.geteuid", lambda: 1000)
    async with pull_network("registry.example", Reach(resolve=Names("127.0.0.1"))) as network:
        host, _, port = network.environment["HTTPS_PROXY"].removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(request_line + b"\r\n\r\n")
        async with asyncio.timeout(30):
            answer = await reader.read()
        assert answer.split()[1] == status
        writer.close()
        await writer.wait_closed()
