"""A registry for one test: serves an OCI layout over HTTP or HTTPS on loopback, to those who know the password."""

from __future__ import annotations

import base64
import json
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

MANIFEST = "application/vnd.oci.image.manifest.v1+json"


@dataclass
class TinyRegistry:
    host: str
    port: int
    served: list[str] = field(default_factory=list)
    """Paths answered with 200."""
    blobs_elsewhere: str | None = None
    """URL that requests for blobs are sent to instead."""


def make_certificate(directory: Path) -> Path:
    """Return a file with a certificate that nobody vouches for, and its key."""
    path = directory / "registry.pem"
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=registry", "-keyout", str(path)]
    made = subprocess.run(make, check=True, capture_output=True, timeout=60)
    with path.open("ab") as file:
        file.write(made.stdout)
    return path


@contextmanager
def serving(layout: Path, *, username: str, password: str, certificate: Path | None = None) -> Iterator[TinyRegistry]:
    """Serve the layout's one image under every name and tag; over TLS where there is a certificate, with its key."""
    top = json.loads((layout / "index.json").read_text())["manifests"][0]
    expected = "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.headers.get("Authorization") != expected:
                self._answer(401, b"{}", ("WWW-Authenticate", 'Basic realm="tiny"'))
            elif self.path == "/v2/":
                self._answer(200, b"{}")
            elif "/manifests/" in self.path:
                wanted = self.path.rpartition("/")[2]
                by_digest = wanted.startswith("sha256:") and wanted != top["digest"]
                self._blob(wanted if by_digest else top["digest"], MANIFEST if by_digest else top["mediaType"])
            elif "/blobs/" in self.path and registry.blobs_elsewhere is not None:
                self._answer(307, b"", ("Location", registry.blobs_elsewhere))
            elif "/blobs/" in self.path:
                self._blob(self.path.rpartition("/")[2], "application/octet-stream")
            else:
                self._answer(404, b"{}")

        do_HEAD = do_GET  # noqa: N815 - the name that the base class looks for

        def _blob(self, digest: str, media_type: str) -> None:
            content = (layout / "blobs" / "sha256" / digest.removeprefix("sha256:")).read_bytes()
            self._answer(200, content, ("Content-Type", media_type), ("Docker-Content-Digest", digest))

        def _answer(self, status: int, content: bytes, *headers: tuple[str, str]) -> None:
            if status == 200:
                registry.served.append(self.path)
            self.send_response(status)
            for name, value in (*headers, ("Content-Length", str(len(content)))):
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if certificate is not None:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate)
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    registry = TinyRegistry(host=f"127.0.0.1:{server.server_port}", port=server.server_port)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield registry
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
