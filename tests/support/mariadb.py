"""A throw-away MariaDB on a Unix socket: no network, no durability, gone with the block."""

from __future__ import annotations

import getpass
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, create_engine, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

_START_LIMIT_S = 60


class MariaDb:
    """Can be stopped and started again, as the real one may be at any moment."""

    user = "root"

    def __init__(self, base: Path) -> None:
        self._base = base
        self.socket = base / "s"
        self._process: subprocess.Popen[bytes] | None = None

    def install(self) -> None:
        subprocess.run(
            [
                "mariadb-install-db",
                "--no-defaults",
                _as_user(),
                f"--datadir={self._base / 'data'}",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
            ],
            check=True,
            capture_output=True,
            timeout=120,
        )

    def start(self) -> None:
        with (self._base / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    "mariadbd",
                    "--no-defaults",
                    _as_user(),
                    f"--datadir={self._base / 'data'}",
                    f"--socket={self.socket}",
                    f"--pid-file={self._base / 'pid'}",
                    "--skip-networking",
                    "--innodb-flush-log-at-trx-commit=0",
                    "--innodb-buffer-pool-size=64M",
                    "--character-set-server=utf8mb4",
                ],
                stdout=log,
                stderr=log,
            )
        give_up = time.monotonic() + _START_LIMIT_S
        while True:
            try:
                self.execute("SELECT 1")
            except OperationalError:
                if self._process.poll() is not None or time.monotonic() > give_up:
                    raise RuntimeError(f"mariadbd did not start:\n{(self._base / 'log').read_text()}") from None
                time.sleep(0.1)
            else:
                return

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(timeout=60)
            self._process = None

    def url(self, database: str) -> URL:
        return URL.create(
            "mysql+mysqldb",
            username=self.user,
            host="localhost",
            database=database,
            query={"unix_socket": str(self.socket), "charset": "utf8mb4"},
        )

    def execute(self, *statements: str, database: str = "mysql") -> list[tuple[Any, ...]]:
        """Run statements as one transaction on a connection of their own; return the rows of the last."""
        engine = create_engine(self.url(database), poolclass=NullPool)
        rows: list[tuple[Any, ...]] = []
        with engine.begin() as connection:
            for statement in statements:
                result = connection.execute(text(statement))
                rows = [tuple(row) for row in result] if result.returns_rows else []
        return rows


@contextmanager
def mariadb() -> Iterator[MariaDb]:
    # Not pytest's tmp_path: a socket's path has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="cube-db-") as name:
        server = MariaDb(Path(name))
        server.install()
        server.start()
        try:
            yield server
        finally:
            server.stop()


def _as_user() -> str:
    # As root the server refuses to start without being told so.
    return f"--user={getpass.getuser()}"
