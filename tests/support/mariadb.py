"""A throw-away MariaDB on a Unix socket: no network, no durability, gone with the block."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Row, create_engine, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

_START_LIMIT_S = 60


@dataclass(frozen=True)
class MariaDb:
    socket: Path
    user: str = "root"

    def url(self, database: str) -> URL:
        return URL.create(
            "mysql+mysqldb",
            username=self.user,
            host="localhost",
            database=database,
            query={"unix_socket": str(self.socket), "charset": "utf8mb4"},
        )

    def execute(self, *statements: str, database: str = "mysql") -> Sequence[Row[Any]]:
        """Run statements as one transaction on a connection of their own; return the rows of the last."""
        engine = create_engine(self.url(database), poolclass=NullPool)
        rows: Sequence[Row[Any]] = ()
        with engine.begin() as connection:
            for statement in statements:
                result = connection.execute(text(statement))
                rows = result.all() if result.returns_rows else ()
        return rows


@contextmanager
def mariadb() -> Iterator[MariaDb]:
    # Not pytest's tmp_path: a socket's path has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="cube-db-") as name:
        base = Path(name)
        data, socket = base / "data", base / "s"
        # As root the server would refuse to start without being told so.
        user = f"--user={'root' if os.geteuid() == 0 else os.environ.get('USER', 'nobody')}"
        subprocess.run(
            [
                "mariadb-install-db",
                "--no-defaults",
                user,
                f"--datadir={data}",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
            ],
            check=True,
            capture_output=True,
            timeout=120,
        )
        server = _start(base, user)
        try:
            _wait_until_it_answers(MariaDb(socket), server, base / "log")
            yield MariaDb(socket)
        finally:
            server.terminate()
            server.wait(timeout=30)


def _start(base: Path, user: str) -> subprocess.Popen[bytes]:
    with (base / "log").open("ab") as log:
        return subprocess.Popen(
            [
                "mariadbd",
                "--no-defaults",
                user,
                f"--datadir={base / 'data'}",
                f"--socket={base / 's'}",
                f"--pid-file={base / 'pid'}",
                "--skip-networking",
                "--innodb-flush-log-at-trx-commit=0",
                "--innodb-buffer-pool-size=64M",
                "--character-set-server=utf8mb4",
            ],
            stdout=log,
            stderr=log,
        )


def _wait_until_it_answers(database: MariaDb, server: subprocess.Popen[bytes], log: Path) -> None:
    give_up = time.monotonic() + _START_LIMIT_S
    while True:
        try:
            database.execute("SELECT 1")
        except OperationalError:
            if server.poll() is not None or time.monotonic() > give_up:
                raise RuntimeError(f"mariadbd did not start:\n{log.read_text()}") from None
            time.sleep(0.1)
        else:
            return
