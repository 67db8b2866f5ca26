"""The egress proxy as the process that its unit starts: no capabilities, a configuration, health and metrics."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

import aiohttp
import pytest

from appliance.cubevs.base import EgressPolicy
from appliance.domain.egress import HeaderRule
from tests.integration.cubevs.conftest import MakeGuest
from tests.integration.cubevs.egress_world import get, http, tls_answer, world
from tests.support.name_server import name_server
from tests.support.sandbox_net import ELSEWHERE, OUTSIDE, Site
from tests.support.waiting import eventually

pytestmark = pytest.mark.root

NODE = IPv4Address("10.88.0.1")
POWERLESS = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs")
PROGRAM = (sys.executable, "-c", "from appliance.cubevs.egress.main import main; main()")


@pytest.fixture
def config(tmp_path: Path, in_node: Site) -> Path:
    path = tmp_path / "cubevs-egress.toml"
    path.write_text(
        f"""
bpffs = "{in_node.bpffs}"
rules = "{in_node.egress_rules}"
permitted_networks = ["{OUTSIDE}/32"]
socket = "{tmp_path}/api.sock"
"""
    )
    return path


@pytest.fixture
def process(config: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Started before the node has its address, as after a boot."""
    with subprocess.Popen((*POWERLESS, *PROGRAM, "--config", str(config))) as started:
        try:
            yield started
        finally:
            started.terminate()
            assert started.wait(30) == -signal.SIGTERM


async def fetch(socket: Path, path: str) -> tuple[int, str]:
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(socket))) as session,
        session.get(f"http://localhost{path}", timeout=aiohttp.ClientTimeout(30)) as response,
    ):
        return response.status, await response.text()


async def test_the_process_serves_guests_and_operators(
    process: subprocess.Popen[bytes], config: Path, make_guest: MakeGuest, in_node: Site, tmp_path: Path
) -> None:
    socket = config.with_name("api.sock")
    await eventually(socket.exists)
    assert (await fetch(socket, "/health"))[0] == 204
    _, guest = await make_guest(EgressPolicy(allow_domains=("example.com", "other.org")))
    _, inspected = await make_guest(EgressPolicy(header_rules=(HeaderRule("example.com", {"X-Key": "secret"}),)))
    _, plain = await make_guest(EgressPolicy(allow_internet=False, allow_domains=("www.example.com",)))
    async with name_server(NODE, 53) as names, world(in_node, tmp_path) as outside:
        names.records.update({"example.com": (str(OUTSIDE),), "www.example.com": (str(OUTSIDE),)})
        names.records["other.org"] = (str(ELSEWHERE),)
        assert (await http(plain, OUTSIDE, get("www.example.com"))) == (200, f"{OUTSIDE}\n".encode())
        assert await tls_answer(outside, plain, OUTSIDE, "www.example.com") == str(OUTSIDE)
        assert (await http(plain, OUTSIDE, get("example.com")))[0] == 403
        assert (await http(plain, OUTSIDE, get("other.org")))[0] == 403
        # By address this one may go anywhere, and does so without the proxy.
        assert await tls_answer(outside, guest, OUTSIDE, "other.org") == str(OUTSIDE)
        # This one does so through it, to where no name may lead.
        assert await tls_answer(outside, inspected, ELSEWHERE, "other.org") == str(ELSEWHERE)
    _, metrics = await fetch(socket, "/metrics")
    assert 'cube_egress_connections_total{protocol="http"} 3.0' in metrics
    assert 'cube_egress_refused_total{protocol="http",reason="domain"} 2.0' in metrics
    assert 'cube_egress_upstreams_total{by="address",way="node"} 1.0' in metrics


def test_a_configuration_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text("permitted_networks = ['10.0.0.1/8']\n")
    result = subprocess.run((*PROGRAM, "--config", str(path)), capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 2
    assert "permitted_networks" in result.stderr


async def test_a_port_that_is_taken_ends_the_process(process: subprocess.Popen[bytes], config: Path) -> None:
    socket = config.with_name("api.sock")
    await eventually(socket.exists)
    assert (await fetch(socket, "/health"))[0] == 204
    second = config.with_name("second.toml")
    second.write_text(f'socket = "{config.with_name("second.sock")}"\n')
    ended = await asyncio.to_thread(
        subprocess.run, (*PROGRAM, "--config", str(second)), capture_output=True, timeout=60, check=False
    )
    assert ended.returncode != 0
    assert b"already in use" in ended.stdout
