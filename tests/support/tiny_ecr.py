"""Amazon's endpoint for logins at its registries, for one test: over TLS on loopback, and strict about signatures."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ACTION = "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken"
_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=(?P<key>\w+)/(?P<day>\d{8})/(?P<region>[a-z0-9-]+)/ecr/aws4_request, "
    r"SignedHeaders=(?P<signed>[a-z0-9;-]+), Signature=(?P<signature>[0-9a-f]{64})"
)


@dataclass
class TinyEcr:
    port: int
    name: str
    """The one host that it is."""
    region: str
    keys: dict[str, str]
    """Secrets by access key id."""
    username: str
    password: str
    answer: tuple[int, bytes] | None = None
    """Instead of what is right."""
    asked: list[tuple[int, str]] = field(default_factory=list)
    """Status and AWS's error code, or nothing, of each answer."""

    @property
    def host(self) -> str:
        return f"{self.name}:{self.port}"

    def decide(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, str, bytes]:
        """Return status, error code and body."""
        if self.answer is not None:
            return self.answer[0], "", self.answer[1]
        code = self._refusal(method, path, headers, body)
        if code:
            said = {"__type": f"com.amazonaws.ecr#{code}", "message": f"refused {headers.get('authorization')}"}
            return 400, code, json.dumps(said).encode()
        token = base64.b64encode(f"{self.username}:{self.password}".encode()).decode()
        until = (datetime.now(UTC) + timedelta(hours=12)).timestamp()
        data = {"authorizationToken": token, "expiresAt": until, "proxyEndpoint": "https://1.dkr.ecr.example"}
        return 200, "", json.dumps({"authorizationData": [data]}).encode()

    def _refusal(self, method: str, path: str, headers: dict[str, str], body: bytes) -> str:
        given = _AUTHORIZATION.fullmatch(headers.get("authorization", ""))
        if (method, path, headers.get("x-amz-target")) != ("POST", "/", ACTION) or json.loads(body) != {}:
            return "UnknownOperationException"
        if headers.get("content-type") != "application/x-amz-json-1.1" or headers.get("host") != self.host:
            return "SerializationException"
        if given is None:
            return "MissingAuthenticationTokenException"
        if given["key"] not in self.keys:
            return "UnrecognizedClientException"
        signed = given["signed"].split(";")
        if not {"host", "x-amz-date", "x-amz-target"} <= set(signed):
            return "IncompleteSignatureException"
        at = headers["x-amz-date"]
        age = datetime.now(UTC) - datetime.strptime(at, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        if given["region"] != self.region or at[:8] != given["day"] or abs(age) > timedelta(minutes=5):
            return "InvalidSignatureException"
        canonical = "\n".join(
            [
                method,
                path,
                "",
                *(f"{name}:{headers[name].strip()}" for name in signed),
                "",
                given["signed"],
                hashlib.sha256(body).hexdigest(),
            ]
        )
        scope = f"{given['day']}/{self.region}/ecr/aws4_request"
        to_sign = f"AWS4-HMAC-SHA256\n{at}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        key = f"AWS4{self.keys[given['key']]}".encode()
        for part in (*scope.split("/"), to_sign):
            key = hmac.new(key, part.encode(), hashlib.sha256).digest()
        return "" if hmac.compare_digest(key.hex(), given["signature"]) else "InvalidSignatureException"


@contextmanager
def serving_ecr(tls: ssl.SSLContext, *, region: str, name: str, keys: dict[str, str], login: str) -> Iterator[TinyEcr]:
    """Serve `name`, giving the login `username:password` to the holders of `keys`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            status, code, answer = ecr.decide("POST", self.path, headers, body)
            ecr.asked.append((status, code))
            self.send_response(status)
            self.send_header("Content-Type", "application/x-amz-json-1.1")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            """Clients that trust nobody here hang up."""

    server = Server(("127.0.0.1", 0), Handler)
    server.socket = tls.wrap_socket(server.socket, server_side=True)
    username, _, password = login.partition(":")
    ecr = TinyEcr(server.server_port, name, region, keys, username, password)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield ecr
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
