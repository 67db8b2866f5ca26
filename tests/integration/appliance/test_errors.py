"""What is not possible is said clearly, each in its own words."""

from __future__ import annotations

import json

import pytest

from tests.integration.appliance.conftest import IMAGE, PATIENCE_S, Site, eventually
from tests.support.appliance import DOMAIN, Service

pytestmark = [pytest.mark.root, pytest.mark.guest]


def _error_of_create(site: Site, template: str, *, key: str | None = None) -> tuple[str, str]:
    answer = site.ask(
        f"""
        import json
        from e2b import Sandbox
        try:
            print(json.dumps({{"type": "none", "text": Sandbox.create({template!r}).sandbox_id}}))
        except Exception as error:
            print(json.dumps({{"type": type(error).__name__, "text": str(error)}}))
        """,
        key=key,
    )
    return str(answer["type"]), str(answer["text"])


def test_a_wrong_key(site: Site) -> None:
    kind, text = _error_of_create(site, "base", key="e2b_" + "0" * 40)
    assert kind == "AuthenticationException"
    assert "API key" in text


def test_a_revoked_key(site: Site) -> None:
    key = site.appliance.cli("key", "create", "--name", "short-lived")
    assert "sandboxes" not in key
    site.appliance.cli("key", "revoke", key["key_id"])
    kind, _ = _error_of_create(site, "base", key=key["key"])
    assert kind == "AuthenticationException"


def test_an_unknown_template(site: Site) -> None:
    kind, text = _error_of_create(site, "nothing-like-it")
    assert kind != "none"
    assert "template 'nothing-like-it' not found" in text


def test_a_template_that_is_still_building(site: Site) -> None:
    started = site.appliance.cli(
        "tpl", "create-from-image", "--image", IMAGE, "--name", "slow", "--cpu", "1", "--memory", "256M",
        "--writable-layer-size", "256M", "--ready-cmd", "test -e /never",
    )  # fmt: skip
    try:
        kind, text = _error_of_create(site, "slow")
        assert kind != "none"
        assert "template 'slow' is not ready" in text
        assert "tpl watch" in text
    finally:
        site.appliance.cli("tpl", "delete", started["template_id"])


def test_host_names_that_lead_nowhere(site: Site) -> None:
    sandbox_id = site.create()
    for host, status, words in (
        (f"49983-i0000000000000000000x.{DOMAIN}", 502, "The sandbox was not found"),
        (f"8123-{sandbox_id}.{DOMAIN}", 502, "The sandbox is running but port is not open"),
        (f"{sandbox_id}.{DOMAIN}", 400, "Invalid"),
        (f"99999-{sandbox_id}.{DOMAIN}", 400, "Invalid sandbox port"),
        ("example.org", 400, "Invalid host"),
    ):
        answered, body = site.curl("-H", f"Host: {host}", "http://127.0.0.1/")
        assert (answered, words in body) == (status, True), f"{host}: {answered} {body}"


def test_the_agents_own_routes_are_hidden_from_users(site: Site) -> None:
    sandbox_id = site.create()
    host = ("-H", f"Host: 49983-{sandbox_id}.{DOMAIN}")
    for path in ("/init", "/init/", "//init", "/%69nit"):
        assert site.curl(*host, "-X", "POST", "-d", "{}", "--path-as-is", f"http://127.0.0.1{path}")[0] == 404
    status, body = site.curl(*host, "http://127.0.0.1/files?path=/etc/passwd")
    assert status == 401, body


def test_a_node_that_is_down(site: Site, impatient_master: Service) -> None:
    impatient_master.restart()
    site.appliance.cubelet.stop()
    try:
        kind, text = _error_of_create(site, "base")
    finally:
        site.appliance.cubelet.start()
    assert kind == "ServiceBusyException"
    assert "node" in text
    eventually(lambda: _node_state(site) == "ready")
    # Whether the node began it cannot be known before it is back; then nothing of it may be left.
    eventually(lambda: site.rows() == [], says=site.rows)


def test_errors_have_the_bodies_that_sdks_read(site: Site) -> None:
    status, body = site.curl("http://127.0.0.1:3000/v2/sandboxes", "-X", "POST", "-d", "{}")
    assert (status, json.loads(body)["code"]) == (401, 401)
    status, body = site.curl(
        "http://127.0.0.1:3000/v2/sandboxes", "-H", f"X-API-Key: {site.key}", "-H", "Content-Type: application/json",
        "-d", '{"templateID": "base", "timeout": 99999999}',
    )  # fmt: skip
    assert status == 400
    assert "Timeout cannot be greater than 24 hours" in json.loads(body)["message"]


def _node_state(site: Site) -> object:
    (node,) = site.appliance.cli("node", "list", timeout=PATIENCE_S)
    return node["state"]
