"""A throw-away Redis on a Unix socket: no network, nothing on disk, gone with the block."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis

_START_LIMIT_S = 20


class RedisServer:
    """Can be stopped and started again, as the real one may be at any moment."""

    def __init__(self, base: Path) -> None:
        self._base = base
        self.socket = base / "s"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self._base / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    "redis-server",
                    *("--port", "0"),
                    *("--unixsocket", str(self.socket)),
                    *("--save", ""),
                    *("--appendonly", "no"),
                    *("--dir", str(self._base)),
                ],
                stdout=log,
                stderr=log,
            )
        give_up = time.monotonic() + _START_LIMIT_S
        while True:
            try:
                with self.client() as client:
                    client.ping()
            except redis.ConnectionError:
                if self._process.poll() is not None or time.monotonic() > give_up:
                    raise RuntimeError(f"redis-server did not start:\n{(self._base / 'log').read_text()}") from None
                time.sleep(0.05)
            else:
                return

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(timeout=20)
            self._process = None

    def client(self) -> redis.Redis:
        return redis.Redis(unix_socket_path=str(self.socket), decode_responses=True)


@contextmanager
def redis_server() -> Iterator[RedisServer]:
    # Not pytest's tmp_path: a socket's path has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="cube-redis-") as name:
        server = RedisServer(Path(name))
        server.start()
        try:
            yield server
        finally:
            server.stop()
