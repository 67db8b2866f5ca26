from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from appliance.cubevs.egress.authority import Authority
from guest_agent.auth.signature import Operation, sign
from tests.integration.guest_agent.agent import TOKEN, Agent, running_agent

pytestmark = pytest.mark.root


def test_only_health_and_init_answer_before_the_first_init(tmp_path: Path) -> None:
    with running_agent(tmp_path, "--init-from", "127.0.0.1") as agent:
        assert agent.request("GET", "/health").status == 204
        assert agent.request("GET", "/metrics").status == 503
        assert agent.request("GET", "/files?path=/etc/hosts").status == 503
        refused = agent.call("process.Process/List", {})
        assert (refused.status, refused.json["code"]) == (503, "unavailable")
        assert agent.init().status == 204
        assert agent.call("process.Process/List", {}).status == 200


def test_init_is_refused_from_the_sandbox_itself(tmp_path: Path) -> None:
    with running_agent(tmp_path) as agent:
        answer = agent.init(accessToken="mine")
        assert (answer.status, answer.json["code"]) == (403, 403)
        assert agent.request("GET", "/metrics").status == 503


def test_init_reports_the_envd_version(agent: Agent) -> None:
    assert agent.init(accessToken=TOKEN).headers["x-envd-version"] == "0.6.13"


def test_init_writes_the_marker_files(agent: Agent) -> None:
    markers = {path.name: path.read_text() for path in (agent.directory / "e2b").iterdir()}
    assert markers == {".E2B_SANDBOX": "true", ".E2B_SANDBOX_ID": "isandbox", ".E2B_TEMPLATE_ID": "base"}


@pytest.mark.parametrize(
    "body", ["{", "[]", '{"envVars": {"A": 1}}', '{"timestamp": "yesterday"}', '{"caBundle": "nonsense"}']
)
def test_malformed_init_is_400(agent: Agent, body: str) -> None:
    answer = agent.request("POST", "/init", body.encode())
    assert (answer.status, answer.json["code"]) == (400, 400)


def test_an_older_init_is_ignored(tmp_path: Path) -> None:
    with running_agent(tmp_path, "--init-from", "127.0.0.1") as agent:
        agent.init(accessToken=TOKEN, envVars={"V": "new"}, timestamp="2090-01-01T00:00:01Z")
        late = {"accessToken": "other", "envVars": {"V": "old"}, "timestamp": "2090-01-01T00:00:00.999Z"}
        assert agent.request("POST", "/init", json.dumps(late).encode()).status == 204
        assert agent.request("GET", "/envs").json == {"V": "new"}


def test_variables_stay_over_an_init_that_inherits_them_and_over_no_other(agent: Agent) -> None:
    agent.init(accessToken=TOKEN, sandboxId="isandbox", envVars={"A": "1", "B": "2"})
    agent.init(accessToken=TOKEN, sandboxId="isandbox", envVars={"B": "3"}, inheritEnv=True)
    assert agent.request("GET", "/envs").json == {"A": "1", "B": "3"}
    agent.init(accessToken=TOKEN, sandboxId="isandbox", envVars={"C": "4"})
    assert agent.request("GET", "/envs").json == {"C": "4"}


def test_what_the_machine_trusts_leads_programs_to_it_unless_their_variables_say_otherwise(agent: Agent) -> None:
    pem = Authority("isandbox", b"key").certificate()
    agent.init(accessToken=TOKEN, sandboxId="isandbox", envVars={"SSL_CERT_FILE": "/mine"}, caBundle=pem)
    seen = dict(line.split("=", 1) for line in agent.run("env").stdout.decode().splitlines())
    assert seen["NODE_EXTRA_CA_CERTS"] == "/usr/local/share/ca-certificates/e2b-ca.crt"
    assert seen["SSL_CERT_FILE"] == "/mine"
    assert agent.request("GET", "/envs").json.keys() == {"NODE_EXTRA_CA_CERTS", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"}
    agent.token = None
    assert agent.request("POST", "/flush").json == {"envVars": {"SSL_CERT_FILE": "/mine"}}


def test_the_node_may_have_more_trusted_while_all_else_stays(tmp_path: Path) -> None:
    body = json.dumps({"caBundle": Authority("isandbox", b"key").certificate()}).encode()
    with running_agent(tmp_path, "--init-from", "127.0.0.1") as agent:
        assert agent.request("POST", "/trust", body).status == 503
        agent.init(accessToken=TOKEN, envVars={"A": "b"})
        assert agent.request("POST", "/trust", b'{"caBundle": "nonsense"}').status == 400
        assert agent.request("POST", "/trust", b"{}").status == 400
        assert agent.request("GET", "/envs").json == {"A": "b"}
        agent.token = None
        assert agent.request("POST", "/trust", body).status == 204
        agent.token = TOKEN
        assert agent.request("GET", "/envs").json.keys() == {
            *("A", "NODE_EXTRA_CA_CERTS", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
        }
    with running_agent(tmp_path) as agent:
        assert agent.request("POST", "/trust", body).status == 403


def test_the_node_and_nobody_in_the_sandbox_may_have_it_flushed(tmp_path: Path) -> None:
    with running_agent(tmp_path, "--init-from", "127.0.0.1") as agent:
        agent.init(accessToken=TOKEN, envVars={"A": "b"})
        agent.token = None
        assert agent.request("POST", "/flush").json == {"envVars": {"A": "b"}}
    with running_agent(tmp_path) as agent:
        assert agent.request("POST", "/flush").status == 403


def test_a_restarted_agent_keeps_its_token(tmp_path: Path) -> None:
    with running_agent(tmp_path, "--init-from", "127.0.0.1") as agent:
        agent.init(accessToken=TOKEN, envVars={"A": "b"})
    assert (tmp_path / "state.json").stat().st_mode & 0o777 == 0o600
    with running_agent(tmp_path) as agent:
        assert agent.request("GET", "/envs").status == 401
        agent.token = TOKEN
        assert agent.request("GET", "/envs").json == {"A": "b"}


@pytest.fixture
def stranger(shared_agent: Agent, agent: Agent) -> Agent:
    """The same agent, for a client without the token."""
    return Agent(shared_agent.port, shared_agent.process, shared_agent.directory)


_PROCEDURES = [
    *(f"process.Process/{name}" for name in ("Start", "Connect", "List", "Update", "SendInput", "StreamInput")),
    *(f"process.Process/{name}" for name in ("SendSignal", "CloseStdin")),
    *(f"filesystem.Filesystem/{name}" for name in ("Stat", "MakeDir", "Move", "ListDir", "Remove", "WatchDir")),
    *(f"filesystem.Filesystem/{name}" for name in ("CreateWatcher", "GetWatcherEvents", "RemoveWatcher")),
]


class TestWithoutToken:
    @pytest.mark.parametrize("procedure", _PROCEDURES)
    @pytest.mark.parametrize("token", [None, "wrong", TOKEN[:-1], ""])
    def test_calls_are_unauthenticated(self, stranger: Agent, procedure: str, token: str | None) -> None:
        stranger.token = token
        answer = stranger.call(procedure, {})
        assert (answer.status, answer.json["code"]) == (401, "unauthenticated")

    @pytest.mark.parametrize("path", ["/metrics", "/envs"])
    def test_plain_routes_are_401(self, stranger: Agent, path: str) -> None:
        answer = stranger.request("GET", path)
        assert (answer.status, answer.json["code"]) == (401, 401)

    def test_files_ask_for_a_signature(self, stranger: Agent) -> None:
        answer = stranger.request("GET", "/files?path=/etc/hostname")
        assert answer.json == {"code": 401, "message": "missing signature query parameter"}

    def test_a_signed_url_reads_and_an_expired_one_says_so(self, stranger: Agent, tmp_path: Path) -> None:
        file = tmp_path / "a"
        file.write_bytes(b"signed")
        for expiration, expected in ((int(time.time()) + 60, 200), (1, 401)):
            signature = sign(str(file), Operation.READ, "", TOKEN, expiration).replace("+", "%2B")
            answer = stranger.request(
                "GET", f"/files?path={file}&signature={signature}&signature_expiration={expiration}"
            )
            assert answer.status == expected
        assert answer.json == {"code": 401, "message": "signature is already expired"}

    def test_a_read_signature_does_not_write(self, stranger: Agent, tmp_path: Path) -> None:
        file = tmp_path / "a"
        signature = sign(str(file), Operation.READ, "", TOKEN, None).replace("+", "%2B")
        answer = stranger.request(
            "POST",
            f"/files?path={file}&signature={signature}",
            b"x",
            headers={"Content-Type": "application/octet-stream"},
        )
        assert answer.json == {"code": 401, "message": "invalid signature"}
        assert not file.exists()


def test_browsers_are_let_in(agent: Agent) -> None:
    asked = {
        "Origin": "https://app.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "x-access-token,keepalive-ping-interval",
    }
    preflight = agent.request("OPTIONS", "/process.Process/Start", headers=asked)
    assert preflight.status == 200
    assert preflight.headers["access-control-allow-origin"] == "*"
    assert "keepalive-ping-interval" in preflight.headers["access-control-allow-headers"].lower()


def test_metrics_have_every_field_of_the_protocol(agent: Agent) -> None:
    metrics = agent.request("GET", "/metrics").json
    assert metrics.keys() == {
        "ts", "cpu_count", "cpu_used_pct", "mem_total", "mem_used", "mem_cache", "mem_total_mib", "mem_used_mib",
        "disk_used", "disk_total",
    }  # fmt: skip
    assert 0 <= metrics["cpu_used_pct"] <= 100
    assert 0 < metrics["mem_used"] < metrics["mem_total"]


def test_unknown_paths_and_methods(agent: Agent) -> None:
    assert agent.request("GET", "/nothing").json == {"code": 404, "message": "not found"}
    assert agent.request("DELETE", "/files").status == 405
