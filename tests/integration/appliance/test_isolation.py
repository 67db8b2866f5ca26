"""What a guest cannot reach: any other sandbox, and any address of its node."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

import pytest

from tests.integration.appliance.conftest import Program, Site

pytestmark = [pytest.mark.root, pytest.mark.guest]

# An address of the node as a site has it, besides those that CubeVS made.
UPLINK = "203.0.113.1"
NODE_ADDRESSES = ("10.88.0.1", UPLINK, "169.254.0.22")
PORTS = (22, 53, 80, 443, 3000, 3306, 6379, 8080, 49983)
GUEST_PORTS = (22, 80, 49999)

# Tries every target at once: what is dropped answers nobody, and waiting for each in turn takes minutes.
PROBE = """
probe() { timeout 6 bash -c "exec 3<>/dev/tcp/$1/$2" 2>/dev/null && echo "reached $1 $2"; }
for target in TARGETS; do probe ${target%:*} ${target#*:} & done
wait
echo probed
"""


@pytest.fixture
def services(site: Site) -> Iterator[Program]:
    """Something that answers on each of `PORTS` on every address of the node, where nothing of ours does already."""
    namespace = site.appliance.namespace
    namespace.ip("link add uplink type veth peer name cable")
    namespace.ip(f"addr add {UPLINK}/24 dev uplink")
    namespace.ip("link set uplink up")
    namespace.ip("link set cable up")
    try:
        with site.program(
            f"""
            import socket, threading
            listeners = []
            for port in {PORTS}:
                for address in ("10.88.0.1", "{UPLINK}", "127.0.0.1"):
                    try:
                        listeners.append(socket.create_server((address, port)))
                    except OSError:
                        pass
            print("listening", len(listeners), flush=True)
            threading.Event().wait()
            """
        ) as program:
            assert program.line().startswith("listening ")
            yield program
    finally:
        namespace.ip("link del uplink")


def _probe(targets: list[str]) -> str:
    return PROBE.replace("TARGETS", " ".join(targets))


def _reached_from_the_node(site: Site, targets: list[str]) -> int:
    """Return how many targets answer where nothing is in the way."""
    command = ("ip", "netns", "exec", site.appliance.namespace.name, "bash", "-c", _probe(targets))
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.count("reached")


def test_no_guest_reaches_the_node(site: Site, services: Program) -> None:
    reachable = [f"{address}:{port}" for address in ("10.88.0.1", UPLINK) for port in PORTS]
    assert _reached_from_the_node(site, reachable) == len(reachable)
    targets = [f"{address}:{port}" for address in NODE_ADDRESSES for port in PORTS]
    printed = site.run(
        f"""
        from e2b import Sandbox
        sandbox = Sandbox.create("base")
        print(sandbox.commands.run({_probe(targets)!r}, timeout=50, user="root").stdout)
        """
    )
    assert printed.split() == ["probed"]


def test_no_guest_reaches_another(site: Site) -> None:
    answer = json.loads(
        site.run(
            f"""
            import json
            from e2b import Sandbox
            ours, other = Sandbox.create("base"), Sandbox.create("base")
            listen = "import socket, signal; l = [socket.create_server(('', p)) for p in {GUEST_PORTS}]; signal.pause()"
            other.commands.run(f'python3 -c "{{listen}}"', background=True, user="root")
            other.commands.run("until ss -Htln | grep -q ':{GUEST_PORTS[-1]} '; do sleep 0.2; done")
            print(json.dumps({{"ours": ours.sandbox_id, "other": other.sandbox_id}}))
            """
        )
    )
    addresses = [_address(site, str(answer[name])) for name in ("other", "ours")]
    assert addresses[0] != addresses[1]
    assert _reached_from_the_node(site, [f"{addresses[0]}:{port}" for port in (49983, *GUEST_PORTS)]) == 4
    targets = [f"{address}:{port}" for address in addresses for port in (49983, *GUEST_PORTS)]
    printed = site.run(
        f"""
        from e2b import Sandbox
        sandbox = Sandbox.connect({answer["ours"]!r})
        print(sandbox.commands.run({_probe(targets)!r}, timeout=50, user="root").stdout)
        """
    )
    assert printed.split() == ["probed"]


def _address(site: Site, sandbox_id: str) -> str:
    with site.appliance.redis.client() as redis:
        return str(json.loads(redis.get(f"cube:route:{sandbox_id}"))["address"])
