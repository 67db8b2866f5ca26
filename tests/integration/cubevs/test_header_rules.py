"""Headers that the proxy adds: real guests and clients, TLS to both sides, and upstreams that say what they got."""

from __future__ import annotations

import asyncio
import ssl
import stat
import subprocess
import sys
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from appliance.cubevs.base import EgressPolicy, Tap
from appliance.cubevs.egress import rule_files
from appliance.cubevs.egress.refusals import Reason
from appliance.cubevs.switch import CubeVS
from appliance.domain.egress import HeaderRule
from appliance.domain.ids import SandboxId
from tests.integration.cubevs.conftest import MakeGuest
from tests.integration.cubevs.egress_proxy import EVERYTHING, Egress, running_egress
from tests.integration.cubevs.egress_world import DEADLINE_S, Handler, World, connect, get, http
from tests.integration.cubevs.test_egress_process import PROGRAM
from tests.support.sandbox_net import OUTSIDE, Guest, Site
from tests.support.waiting import eventually

pytestmark = pytest.mark.root

NAME = "example.com"
SECRET = "canary-5f1c0e"
RULE = HeaderRule(NAME, {"Authorization": f"Bearer {SECRET}", "X-Team": "blue"})
POLICY = EgressPolicy(deny=(EVERYTHING,), allow_domains=(NAME, "www.example.com", "bad.test"), header_rules=(RULE,))
CUSTOM_ANSWERS = {
    b"/no-content": b"HTTP/1.1 204 No Content\r\n\r\n",
    b"/not-modified": b'HTTP/1.1 304 Not Modified\r\nETag: "a"\r\nContent-Length: 5\r\n\r\n',
    b"/chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
    b"/to-the-end": b"HTTP/1.1 200 OK\r\n\r\nabcde",
    b"/hints": b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabcde",
}


def show(made: World, address: IPv4Address) -> Handler:
    """Answer one request with the request, or become a WebSocket that echoes, and note everything that came."""

    async def handle(reader: StreamReader, writer: StreamWriter) -> None:
        received = head = await reader.readuntil(b"\r\n\r\n")
        path = head.split()[1]
        if path == b"/websocket":
            writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
            while data := await reader.read(65536):
                received += data
                writer.write(data)
                await writer.drain()
            made.requests.append((str(address), received))
            return
        if path in CUSTOM_ANSWERS:
            writer.write(CUSTOM_ANSWERS[path])
        else:
            length = next((int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length:")), 0)
            received += await reader.readexactly(length)
            body = b"" if head.startswith(b"HEAD ") else received
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(received) + body)
            await writer.drain()
        made.requests.append((str(address), received))
        writer.close()
        await writer.wait_closed()

    return handle


@pytest.fixture
async def egress(switch: CubeVS, in_node: Site, tmp_path: Path) -> AsyncIterator[Egress]:
    async with running_egress(in_node, tmp_path, by_tls=show) as running:
        running.names.records["bad.test"] = (str(OUTSIDE),)  # whose certificate is for other names
        yield running


@dataclass
class Sandbox:
    """A guest with header rules, and what it trusts."""

    guest: Guest
    tap: Tap
    sandbox_id: SandboxId
    switch: CubeVS
    ca: Path

    def context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.ca))

    async def admit(self, policy: EgressPolicy) -> None:
        await self.switch.admit(self.tap, self.sandbox_id, policy)

    @asynccontextmanager
    async def tls(
        self, name: str = NAME, context: ssl.SSLContext | None = None
    ) -> AsyncIterator[tuple[StreamReader, StreamWriter]]:
        async with asyncio.timeout(DEADLINE_S):
            reader, writer = await asyncio.open_connection(
                sock=await connect(self.guest, OUTSIDE, 443), ssl=context or self.context(), server_hostname=name
            )
            try:
                yield reader, writer
            finally:
                writer.transport.abort()

    async def https(self, request: bytes, name: str = NAME) -> tuple[int, bytes]:
        """Return the status of the answer, and its body as far as the connection's end."""
        async with self.tls(name) as (reader, writer):
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            return int(head.split()[1]), await reader.read()

    async def run(self, *argv: str) -> str:
        return await asyncio.to_thread(self.guest.namespace.run, *argv)


@pytest.fixture
async def sandbox(egress: Egress, switch: CubeVS, in_node: Site, make_guest: MakeGuest, tmp_path: Path) -> Sandbox:
    tap, guest = await make_guest(POLICY)
    rules = rule_files.read(in_node.egress_rules, tap.address)
    assert rules is not None
    sandbox_id = SandboxId(rules.sandbox_id)
    ca = tmp_path / "trusted.pem"
    ca.write_text(switch.trusted_certificate(sandbox_id))
    return Sandbox(guest, tap, sandbox_id, switch, ca)


WITH_HEADERS = f"Authorization: Bearer {SECRET}\r\nX-Team: blue\r\nConnection: close\r\n\r\n".encode()


async def test_a_request_by_tls_gets_the_headers_and_none_of_the_guests_under_their_names(
    egress: Egress, sandbox: Sandbox
) -> None:
    request = b"GET /a HTTP/1.1\r\nHost: example.com\r\nauthorization: mine\r\nX-Own: kept\r\nx-TEAM: red\r\n\r\n"
    status, seen = await sandbox.https(request)
    assert status == 200
    assert seen == b"GET /a HTTP/1.1\r\nHost: example.com\r\nX-Own: kept\r\n" + WITH_HEADERS
    assert egress.injected("https") == 1
    await eventually(lambda: egress.open_connections() == 0)


async def test_a_plain_request_gets_the_same_headers(egress: Egress, sandbox: Sandbox) -> None:
    assert (await http(sandbox.guest, OUTSIDE, get(NAME, "/a")))[0] == 200
    await eventually(lambda: len(egress.world.requests) == 1)
    assert egress.world.requests[0][1] == b"GET /a HTTP/1.1\r\nHost: example.com\r\n" + WITH_HEADERS
    assert egress.injected("http") == 1


async def test_other_names_are_passed_on_untouched(egress: Egress, sandbox: Sandbox) -> None:
    async with sandbox.tls("www.example.com", egress.world.client_tls) as (reader, writer):
        writer.write(get("www.example.com"))
        assert SECRET.encode() not in await reader.read()
    assert (await http(sandbox.guest, OUTSIDE, get("www.example.com")))[0] == 200
    await eventually(lambda: len(egress.world.requests) == 2)
    assert SECRET not in str(egress.world.requests)
    assert egress.certificates.made == 0


async def test_clients_of_every_kind_are_content(egress: Egress, sandbox: Sandbox) -> None:
    curl = await sandbox.run(
        *("curl", "-sS", "--max-time", "20", "--cacert", str(sandbox.ca)),
        *("--resolve", f"{NAME}:443:{OUTSIDE}", "-d", "abc", f"https://{NAME}/curl"),
    )
    assert f"Bearer {SECRET}" in curl
    assert curl.endswith("abc")
    program = (
        "import http.client, socket, ssl;"
        f"tls = ssl.create_default_context(cafile={str(sandbox.ca)!r});"
        "tls.verify_flags |= ssl.VERIFY_X509_STRICT;"
        f"made = http.client.HTTPSConnection({NAME!r}, context=tls, timeout=20);"
        f"made._create_connection = lambda _, *rest: socket.create_connection(({str(OUTSIDE)!r}, 443), *rest);"
        "made.request('GET', '/python');"
        "print(made.getresponse().read().decode())"
    )
    assert f"Bearer {SECRET}" in await sandbox.run(sys.executable, "-c", program)
    shown = await sandbox.run(
        "sh",
        "-c",
        f"printf 'GET /openssl HTTP/1.1\\r\\nHost: {NAME}\\r\\n\\r\\n' | timeout 20 openssl s_client -quiet"
        f" -connect {OUTSIDE}:443 -servername {NAME} -verify_hostname {NAME} -verify_return_error"
        f" -CAfile {sandbox.ca} -x509_strict 2>&1",
    )
    assert f"Bearer {SECRET}" in shown
    assert egress.certificates.made == 1, "one certificate serves until it is old"


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [
        ("/no-content", 204, b""),
        ("/not-modified", 304, b""),
        ("/chunked", 200, b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"),
        ("/to-the-end", 200, b"abcde"),
        ("/hints", 103, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabcde"),
    ],
)
async def test_answers_of_every_form_arrive_as_they_are(sandbox: Sandbox, path: str, status: int, body: bytes) -> None:
    assert await sandbox.https(get(NAME, path)) == (status, body)


async def test_long_bodies_pass_both_ways(sandbox: Sandbox) -> None:
    data = bytes(range(256)) * 8192
    head = b"POST / HTTP/1.1\r\nHost: example.com\r\nContent-Length: %d\r\n\r\n" % len(data)
    status, seen = await sandbox.https(head + data)
    assert status == 200
    assert seen.endswith(data)
    _, nothing = await sandbox.https(b"HEAD / HTTP/1.1\r\nHost: example.com\r\n\r\n")
    assert nothing == b""


async def test_a_second_request_on_a_connection_reaches_nobody(egress: Egress, sandbox: Sandbox) -> None:
    status, seen = await sandbox.https(get(NAME, "/a") + get("www.example.com", "/hidden"))
    assert status == 200
    assert b"hidden" not in seen
    await eventually(lambda: len(egress.world.requests) == 1)
    assert b"hidden" not in egress.world.requests[0][1]


@pytest.mark.parametrize(
    "request_",
    [
        get("www.example.com"),
        b"GET http://example.com/ HTTP/1.1\r\nHost: example.com\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: example.com:80\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: example.com\r\nHost: www.example.com\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: example.com\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
async def test_requests_that_could_be_read_in_two_ways_are_refused_within_tls(
    egress: Egress, sandbox: Sandbox, request_: bytes
) -> None:
    status, _ = await sandbox.https(request_)
    assert status == 400
    assert egress.refused("https", Reason.MALFORMED) == 1
    assert egress.world.requests == []


async def test_a_rule_that_cannot_be_carried_out_says_why(egress: Egress, sandbox: Sandbox) -> None:
    why = "The secret 'openai' that the headers of example.com name is not there."
    await sandbox.admit(replace(POLICY, header_rules=(replace(RULE, headers={}, refusal=why),)))
    assert await sandbox.https(get(NAME)) == (403, f"{why}\n".encode())
    assert await http(sandbox.guest, OUTSIDE, get(NAME)) == (403, f"{why}\n".encode())
    await sandbox.admit(replace(POLICY, header_rules=(replace(RULE, headers={"Host": SECRET}),)))
    status, text = await sandbox.https(get(NAME))
    assert (status, text) == (403, b"The header 'Host' in the rule for example.com cannot be sent.\n")
    assert egress.names.asked == []
    assert egress.refused("https", Reason.HEADERS) == 2


async def test_an_upstream_that_cannot_show_who_it_is_gets_nothing(egress: Egress, sandbox: Sandbox) -> None:
    await sandbox.admit(replace(POLICY, header_rules=(replace(RULE, domain="bad.test"),)))
    status, text = await sandbox.https(get("bad.test"), "bad.test")
    assert status == 502
    assert text.startswith(b"No request was sent: who answers for bad.test cannot be verified:")
    assert egress.refused("https", Reason.UNVERIFIED) == 1
    assert egress.world.requests == []


async def test_an_upstream_that_is_not_there_is_said_within_tls(egress: Egress, sandbox: Sandbox) -> None:
    egress.names.records[NAME] = ("203.0.113.99",)  # nobody
    status, text = await sandbox.https(get(NAME))
    assert (status, text) == (502, b"Nothing answers for example.com on port 443.\n")
    egress.names.records.clear()
    status, text = await sandbox.https(get(NAME))
    assert status == 502
    assert b"cannot be resolved" in text


async def test_a_name_that_may_not_be_reached_is_signed_for_nobody(egress: Egress, sandbox: Sandbox) -> None:
    await sandbox.admit(replace(POLICY, allow_domains=("www.example.com",)))
    with pytest.raises(ssl.SSLError, match=r"(?i)access.denied"):
        await sandbox.https(get(NAME))
    assert (await http(sandbox.guest, OUTSIDE, get(NAME)))[0] == 403
    for number in range(40):
        with pytest.raises(ssl.SSLError, match=r"(?i)access.denied"):
            await sandbox.https(get(NAME), f"n{number}.example.com")
    assert egress.certificates.made == 0


async def test_a_guest_that_trusts_another_authority_ends_it(egress: Egress, sandbox: Sandbox, switch: CubeVS) -> None:
    other = ssl.create_default_context(cadata=switch.trusted_certificate(SandboxId("another")))
    with pytest.raises(ssl.SSLCertVerificationError):
        async with sandbox.tls(context=other):
            pass
    await eventually(lambda: egress.refused("tls", Reason.UNTRUSTED) == 1)
    await eventually(lambda: egress.open_connections() == 0)
    assert egress.world.requests == []


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_both_versions_of_tls_are_spoken(sandbox: Sandbox, version: ssl.TLSVersion) -> None:
    context = sandbox.context()
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2", "http/1.1"])
    async with sandbox.tls(context=context) as (reader, writer):
        found = writer.get_extra_info("ssl_object")
        assert found.selected_alpn_protocol() == "http/1.1"
        writer.write(get(NAME))
        assert SECRET.encode() in await reader.read()


async def test_older_tls_is_not_spoken(sandbox: Sandbox) -> None:
    context = sandbox.context()
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError, match=r"(?i)version|handshake"):
        async with sandbox.tls(context=context):
            pass


HANDSHAKE = (
    b"GET /%s HTTP/1.1\r\nHost: example.com\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAA\r\nauthorization: mine\r\n\r\n"
)


async def test_a_websocket_gets_the_headers_and_then_passes_as_it_is(egress: Egress, sandbox: Sandbox) -> None:
    async with sandbox.tls() as (reader, writer):
        writer.write(HANDSHAKE % b"websocket")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        for data in (b"\x82\x03abc", bytes(200_000)):
            writer.write(data)
            assert await reader.readexactly(len(data)) == data
    await eventually(lambda: len(egress.world.requests) == 1)
    seen = egress.world.requests[0][1]
    head = seen.partition(b"\r\n\r\n")[0]
    assert head.endswith(f"Bearer {SECRET}\r\nX-Team: blue\r\nConnection: Upgrade\r\nUpgrade: websocket".encode())
    assert head.lower().count(b"\r\nauthorization:") == 1


async def test_what_follows_an_upgrade_that_the_upstream_declines_reaches_nobody(
    egress: Egress, sandbox: Sandbox
) -> None:
    status, _ = await sandbox.https(HANDSHAKE % b"declined" + get("www.example.com", "/hidden"))
    assert status == 200
    assert (await http(sandbox.guest, OUTSIDE, HANDSHAKE % b"declined" + get(NAME, "/hidden")))[0] == 200
    await eventually(lambda: len(egress.world.requests) == 2)
    assert "hidden" not in str(egress.world.requests)


async def test_rules_that_change_cut_what_they_would_have_treated_otherwise(egress: Egress, sandbox: Sandbox) -> None:
    async def websocket() -> tuple[StreamReader, StreamWriter]:
        return await asyncio.open_connection(
            sock=await connect(sandbox.guest, OUTSIDE, 443), ssl=sandbox.context(), server_hostname=NAME
        )

    other = (replace(RULE, headers={"Authorization": "another"}),)
    refused = (replace(RULE, refusal="gone"),)
    reader, writer = await websocket()
    async with asyncio.timeout(DEADLINE_S):
        writer.write(HANDSHAKE % b"websocket")
        await reader.readuntil(b"\r\n\r\n")
        await sandbox.admit(replace(POLICY, header_rules=other))
        await egress.proxy.recheck()
        writer.write(b"still here")
        assert await reader.readexactly(10) == b"still here", "a new value is for the next request"
        await sandbox.admit(replace(POLICY, header_rules=refused))
        await egress.proxy.recheck()
        await eventually(lambda: egress.open_connections() == 0)
    writer.transport.abort()
    await sandbox.admit(replace(POLICY, header_rules=()))
    async with sandbox.tls("www.example.com", egress.world.client_tls):
        await eventually(lambda: egress.open_connections() == 1)
        await sandbox.admit(replace(POLICY, header_rules=(replace(RULE, domain="www.example.com"),)))
        await egress.proxy.recheck()
        await eventually(lambda: egress.open_connections() == 0)


async def test_rules_are_published_for_the_proxy_alone(sandbox: Sandbox, in_node: Site) -> None:
    path = in_node.egress_rules / f"{sandbox.tap.address}.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert path.stat().st_gid == in_node.egress_rules.stat().st_gid
    rules = rule_files.read(in_node.egress_rules, sandbox.tap.address)
    assert rules is not None
    assert rules.header_rule(NAME) == RULE
    assert SECRET not in repr(rules)
    assert rules.authority_key not in repr(rules)
    seed = in_node.egress_rules.with_name("egress-seed")
    assert stat.S_IMODE(seed.stat().st_mode) == 0o600
    assert seed.read_bytes().hex() not in path.read_text()


async def test_header_rules_alone_are_published_and_kept(sandbox: Sandbox, in_node: Site) -> None:
    await sandbox.admit(EgressPolicy(header_rules=(RULE,)))
    before = rule_files.read(in_node.egress_rules, sandbox.tap.address)
    assert before is not None
    assert before.allow_domains == ()
    await in_node.switch().start()
    assert rule_files.read(in_node.egress_rules, sandbox.tap.address) == before
    await sandbox.admit(EgressPolicy())
    assert rule_files.published(in_node.egress_rules) == set()


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_trusted_certificates_that_are_none_are_said_at_the_start(tmp_path: Path, content: str | None) -> None:
    trusted, config = tmp_path / "trusted.pem", tmp_path / "cubevs-egress.toml"
    if content is not None:
        trusted.write_text(content)
    config.write_text(f'trusted_certificates = "{trusted}"\n')
    ended = subprocess.run((*PROGRAM, "--config", str(config)), capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert "the trusted certificates cannot be read" in ended.stderr
