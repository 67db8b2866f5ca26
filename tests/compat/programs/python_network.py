"""What a team does with the network of its sandboxes: importing this adds the checks to those of the program."""

from __future__ import annotations

import contextlib
import ssl
import time
import urllib.request
from collections.abc import Callable
from typing import Any

import e2b
from checks import AbsentFromThisRelease, check, eventually, needs
from e2b import Sandbox
from e2b.sandbox import sandbox_api
from python_sandboxes import sandbox

_SERVES_TLS = """
openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 1 -subj /CN=sandbox 2>/dev/null
cat > serve.py <<END
import http.server, ssl
server = http.server.HTTPServer(("", 8443), http.server.SimpleHTTPRequestHandler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("cert.pem", "key.pem")
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
END
"""


def options(name: str) -> set[str]:
    """Return the fields of a dictionary type of the client."""
    needs(sandbox_api, name)
    return set(getattr(sandbox_api, name).__annotations__)


def serves(one: Any, port: int) -> Callable[[], bool]:
    def answers() -> bool:
        url = f"https://{one.get_host(port)}/index.html"
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=10) as answer:
            return bool(answer.read() == b"served")
        return False

    return answers


@check
def a_port_of_a_service_is_reached_by_its_host() -> None:
    with sandbox() as one:
        one.files.write("index.html", "served")
        one.commands.run("python3 -m http.server 8123", background=True)
        eventually(serves(one, 8123))


@check
def a_service_that_speaks_tls_itself_is_reached_by_its_host() -> None:
    if "https_ports" not in options("SandboxNetworkOpts"):
        raise AbsentFromThisRelease("https_ports")
    with sandbox(network={"https_ports": [8443]}) as one:
        one.files.write("index.html", "served")
        one.commands.run(_SERVES_TLS)
        one.commands.run("python3 serve.py", background=True)
        eventually(serves(one, 8443))
        assert one.get_info().network["https_ports"] == [8443]


@check
def without_internet_nothing_is_reached() -> None:
    if not hasattr(Sandbox, "create"):
        raise AbsentFromThisRelease("allow_internet_access")
    with sandbox(allow_internet_access=False) as one:
        tried = one.commands.run("timeout 3 bash -c 'exec 3<>/dev/tcp/198.18.0.1/80' && echo open || echo closed")
        assert tried.stdout == "closed\n"


@check
def its_network_rules_are_replaced_while_it_runs() -> None:
    needs(Sandbox, "update_network")
    with sandbox() as one:
        one.update_network({"deny_out": ["0.0.0.0/0"]})
        tried = one.commands.run("timeout 3 bash -c 'exec 3<>/dev/tcp/198.18.0.1/80' && echo open || echo closed")
        assert tried.stdout == "closed\n"


@check
def headers_with_secrets_are_added_outside_of_it() -> None:
    """That they are is not seen from here, where there is no internet: that it is prepared for is."""
    needs(e2b, "Secret")
    name = f"compat-{int(time.time() * 1000)}"
    e2b.Secret.create(name, "never in a sandbox")
    try:
        headers = {"Authorization": f"Bearer {e2b.Secret.fill(name)}"}
        rules = {"api.example.com": [{"transform": {"headers": headers}}]}
        with sandbox(network={"rules": rules}) as one:
            assert one.get_info().network["rules"] == rules
            trusted = one.commands.run(
                "cat /usr/local/share/ca-certificates/e2b-ca.crt /etc/ssl/certs/ca-certificates.crt"
            )
            authority, _, others = trusted.stdout.partition("-----END CERTIFICATE-----\n")
            assert ssl.PEM_cert_to_DER_cert(authority + "-----END CERTIFICATE-----\n")
            assert authority in others
    finally:
        e2b.Secret.destroy(name)
    try:
        with sandbox(network={"rules": rules}):
            pass
    except e2b.SandboxException as error:
        assert name in str(error)
        return
    raise AssertionError("a rule with a secret that is not there was taken")


@check
def its_proxy_and_its_name_servers_are_kept_without_the_password() -> None:
    if "egress_proxy" not in options("SandboxNetworkOpts"):
        raise AbsentFromThisRelease("egress_proxy")
    proxy = {"address": "proxy.example.com:1080", "username": "team", "password": "never shown"}
    network: dict[str, Any] = {"egress_proxy": proxy}
    if "dns_servers" in options("SandboxNetworkOpts"):
        network |= {"allow_out": ["example.com"], "deny_out": ["0.0.0.0/0"], "dns_servers": ["9.9.9.9"]}
    with sandbox(network=network) as one:
        shown = dict(one.get_info().network)
        assert shown["egress_proxy"] == {"address": "proxy.example.com:1080", "username": "team"}
        assert shown.get("dns_servers") == network.get("dns_servers")
