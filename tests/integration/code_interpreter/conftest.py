import json
import shutil
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from e2b_code_interpreter import Sandbox

from tests.integration.code_interpreter.image import running_image, unpack_image
from tests.integration.code_interpreter.interpreter import Interpreter, running_interpreter
from tests.integration.code_interpreter.programs import Programs, installed

# By access token, as the guest agent of each sandbox would tell them.
ENVIRONMENTS: Mapping[str | None, Mapping[str, str]] = {
    None: {"FROM_SANDBOX": "plain"},
    "first": {"FROM_SANDBOX": "first", "ONLY_FIRST": "1", "LANG": "first"},
    "second": {"FROM_SANDBOX": "second"},
}


@pytest.fixture(scope="session")
def programs() -> Programs:
    return installed()


@pytest.fixture(scope="session")
def envs_url() -> Iterator[str]:
    """Where a guest agent's `GET /envs` is answered."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(ENVIRONMENTS[self.headers.get("X-Access-Token")]).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/envs"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="session")
def interpreter(programs: Programs, envs_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Interpreter]:
    """One interpreter for all tests that leave it as it was but for variables in its contexts."""
    with running_interpreter(programs, tmp_path_factory.mktemp("interpreter"), envs_url) as running:
        yield running


@pytest.fixture
def sandbox(interpreter: Interpreter) -> Sandbox:
    return interpreter.sandbox()


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The image that is built, unpacked; the other fixtures run what is in the checkout."""
    root = tmp_path_factory.mktemp("image") / "root"
    unpack_image(root)
    yield root
    shutil.rmtree(root)


@pytest.fixture(scope="session")
def image_interpreter(image: Path, envs_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Interpreter]:
    with running_image(image, tmp_path_factory.mktemp("of-image") / "log", envs_url) as running:
        yield running
