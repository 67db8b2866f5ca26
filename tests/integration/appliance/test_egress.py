"""What a real guest reaches by domain, from the SDK to the server outside, over all that happens to a sandbox."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from appliance.clients.node import NodeClient
from appliance.common.http import InternalClient
from appliance.contracts.node_network import HeaderRule, NetworkPolicy
from appliance.domain.ids import SandboxId
from tests.integration.appliance.conftest import Site, eventually
from tests.support.netns import network_namespace

pytestmark = [pytest.mark.root, pytest.mark.guest]

UPLINK = "198.51.100.1"
OUTSIDE = "198.51.100.7"

NAME_SERVER = f"""
import asyncio
from ipaddress import IPv4Address
from tests.support.name_server import name_server

async def main():
    async with name_server(IPv4Address("10.88.0.1"), 53) as names:
        names.records.update({{name: ("{OUTSIDE}",) for name in ("example.com", "www.example.com", "other.org")}})
        print("ready", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""
WEB_SERVERS = """
import http.server, sys, threading
from pathlib import Path
from tests.support.certificates import tls_contexts

class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        added = (*self.headers.get_all("X-Key", ()), *self.headers.get_all("Authorization", ()))
        body = " ".join(("hello from", self.headers["Host"], *added)).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

servers = [http.server.ThreadingHTTPServer(("", port), Handler) for port in (80, 443, 8080)]
server_tls, _ = tls_contexts(Path(sys.argv[1]), "example.com", "www.example.com", "other.org")
servers[1].socket = server_tls.wrap_socket(servers[1].socket, server_side=True)
for server in servers:
    threading.Thread(target=server.serve_forever).start()
print("ready", flush=True)
"""


@pytest.fixture
def world(site: Site, tmp_path: Path) -> Iterator[None]:
    """A name server, the egress proxy, and an Internet that consists of web servers on one address."""
    node = site.appliance.namespace
    config, socket = tmp_path / "cubevs-egress.toml", tmp_path / "egress.sock"
    config.write_text(
        f"""
bpffs = "{site.appliance.base}/bpf"
rules = "{site.appliance.base}/egress"
permitted_networks = ["{OUTSIDE}/32"]
trusted_certificates = "{tmp_path}/server.pem"
socket = "{socket}"
"""
    )
    proxy = f"""
        import sys
        from appliance.cubevs.egress.main import main
        sys.argv = ["cubevs-egress", "--config", "{config}"]
        main()
        """
    with ExitStack() as stack:
        outside = stack.enter_context(network_namespace("internet"))
        node.ip(f"link add wire type veth peer name eth0 netns {outside.name}")
        stack.callback(node.ip, "link del wire")
        for namespace, device, address in ((node, "wire", UPLINK), (outside, "eth0", OUTSIDE)):
            namespace.ip(f"address add {address}/24 dev {device}")
            namespace.ip(f"link set {device} up")
        node.ip(f"route add default via {OUTSIDE}")
        with outside.entered():
            web = stack.enter_context(
                subprocess.Popen((sys.executable, "-c", WEB_SERVERS, str(tmp_path)), stdout=subprocess.PIPE, text=True)
            )
        stack.callback(web.kill)
        assert web.stdout is not None
        assert web.stdout.readline() == "ready\n"
        assert stack.enter_context(site.program(NAME_SERVER)).line() == "ready"
        stack.enter_context(site.program(proxy))
        asked = ("curl", "-sf", "--unix-socket", str(socket), "http://localhost/health")
        eventually(lambda: subprocess.run(asked, timeout=30, check=False).returncode == 0)
        yield


CURL = """
from e2b import Sandbox

def curl(*arguments):
    command = "curl -sk -m 20 -w ' %{http_code}' " + " ".join(arguments) + " || echo ' failed'"
    return sandbox.commands.run(command, timeout=60).stdout.strip()

def rules(*domains):
    return {"allow_out": list(domains), "deny_out": ["0.0.0.0/0"]}
"""


async def set_headers(site: Site, sandbox_id: str, **headers: str) -> None:
    """Have the node add headers to the sandbox's requests for example.com, as CubeMaster asks it to."""
    async with InternalClient(f"unix://{site.appliance.base}/cubelet.sock", service="cubelet") as http:
        node = NodeClient(http)
        policy = NetworkPolicy(
            deny_out=("0.0.0.0/0",),
            allow_domains=("example.com", "www.example.com"),
            header_rules=(HeaderRule(domain="example.com", headers=headers),),
            # CubeMaster, which did not ask, finds its own rules in force.
            revision=(await node.get_sandbox(SandboxId(sandbox_id))).network_revision,
        )
        await node.set_network(sandbox_id, policy)


def run(site: Site, code: str) -> list[str]:
    """Return the lines that a program of the SDK prints, without empty ones."""
    printed = site.run(CURL + code, timeout=180)
    return [line.strip() for line in printed.splitlines() if line.strip()]


def test_a_guest_reaches_what_its_rules_name_and_no_more(site: Site, world: None) -> None:
    printed = run(
        site,
        f"""
sandbox = Sandbox.create("base", network=rules("example.com", "*.example.com"))
for url in ("http://example.com/", "https://example.com/", "https://www.example.com/"):
    print(curl(url))
print(curl("http://other.org/"))
print(curl("https://other.org/"))
print(curl("--resolve example.com:443:192.0.2.1 https://example.com/"))
print(curl("--resolve other.org:80:{OUTSIDE} http://other.org/"))
print(curl("http://{OUTSIDE}/"))
print(curl("-m 3 http://example.com:8080/"))
""",
    )
    refused = "other.org is no domain that this sandbox may reach."
    assert printed == [
        "hello from example.com 200",
        "hello from example.com 200",
        "hello from www.example.com 200",
        refused,
        "403",
        "000 failed",
        "hello from example.com 200",
        refused,
        "403",
        "The Host is no domain name, and its address is not allowed.",
        "403",
        "000 failed",
    ]


def test_rules_by_domain_are_replaced_and_outlive_pauses_and_restarts(site: Site, world: None) -> None:
    sandbox_id = site.run(
        CURL + 'print(Sandbox.create("base", network=rules("example.com")).sandbox_id)', timeout=120
    ).strip()
    again = f"sandbox = Sandbox.connect({sandbox_id!r})\n"
    ask = 'print(curl("-o /dev/null http://example.com/"), curl("-o /dev/null http://other.org/"))'
    assert run(site, f"{again}{ask}") == ["200 403"]
    assert run(site, f'{again}sandbox.update_network(rules("other.org"))\n{ask}') == ["403 200"]
    assert run(site, f"{again}sandbox.pause()\nsandbox = Sandbox.connect({sandbox_id!r})\n{ask}") == ["403 200"]
    site.appliance.cubelet.restart()
    assert run(site, f"{again}{ask}") == ["403 200"]
    assert run(
        site, f'{again}sandbox.update_network({{"deny_out": ["0.0.0.0/0"]}})\nprint(curl("-m 3 http://other.org/"))'
    ) == ["000 failed"]


def test_a_guest_s_requests_get_headers_that_it_never_sees(site: Site, world: None) -> None:
    """Verified by every client of the guest, though it runs already, by what it is told to trust."""
    sandbox_id = site.create(network={"allow_out": ["example.com", "www.example.com"], "deny_out": ["0.0.0.0/0"]})
    asyncio.run(set_headers(site, sandbox_id, **{"X-Key": "canary-7d21"}))
    printed = run(
        site,
        f"""
sandbox = Sandbox.connect({sandbox_id!r})
opened = "import urllib.request as r; print(r.urlopen('https://example.com/', timeout=20).read().decode())"
node = "fetch('https://example.com/').then(r => r.text()).then(console.log)"
for command in (
    "curl -sS -m 20 https://example.com/",
    "curl -sS -m 20 -H 'x-key: mine' http://example.com/",
    "sudo curl -sS -m 20 https://example.com/",
    f'python3 -c "{{opened}}"',
    f'sudo python3 -c "{{opened}}"',
    f'if command -v node >/dev/null; then node -e "{{node}}"; else echo hello from example.com canary-7d21; fi',
    "curl -sSk -m 20 https://www.example.com/",
    "curl -s -m 20 https://www.example.com/ || echo not intercepted, and so not trusted",
    "sudo grep -rl --devices=skip canary-7d21 /etc /home /root /run /tmp /usr/local /var || echo nowhere",
):
    result = sandbox.commands.run(command + " 2>&1 || true", timeout=60)
    print(result.stdout.strip())
""",
    )
    assert printed == [
        *["hello from example.com canary-7d21"] * 6,
        "hello from www.example.com",
        "not intercepted, and so not trusted",
        "nowhere",
    ]


def test_a_secret_reaches_the_server_alone_and_what_becomes_of_it_does_too(site: Site, world: None) -> None:
    """From the SDK through every part to the server, and again when its node has heard of an update and of the end."""
    printed = run(
        site,
        """
import base64, json, time
from e2b import Secret

def told(expected):
    "Ask until the node has heard of a change."
    give_up = time.monotonic() + 60
    while expected not in (answer := curl("https://example.com/")) and time.monotonic() < give_up:
        time.sleep(0.5)  # a node tells nobody that it has heard
    return answer

Secret.create("key", "canary-one")
headers = {"X-Key": "${e2b.secrets.key}", "Authorization": "Bearer ${e2b.identity.tokens.who}"}
sandbox = Sandbox.create(
    "base",
    network={**rules("example.com"), "rules": {"example.com": [{"transform": {"headers": headers}}]}},
    iam={"tokens": {"who": Secret.iam_token(audience="sts", token_type="JWT-SVID")}},
)
answer = curl("https://example.com/")
print(answer.partition(" Bearer ")[0])
claims = answer.partition(" Bearer ")[2].split(".")[1]
subject = json.loads(base64.urlsafe_b64decode(claims + "=="))["sub"]
print(subject.endswith(f"/sandbox/{sandbox.sandbox_id}"))
Secret.update("key", "canary-two")
print(told("canary-two").partition(" Bearer ")[0])
print(sandbox.get_info().network["rules"]["example.com"][0]["transform"]["headers"] == headers)
Secret.destroy("key")
print(told("does not exist").splitlines()[0])
""",
    )
    assert printed == [
        "hello from example.com canary-one",
        "True",
        "hello from example.com canary-two",
        "True",
        'the secret "key" does not exist',
    ]
