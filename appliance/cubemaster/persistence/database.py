"""Transactions. Each runs from begin to commit as one function on one thread of a bounded pool.

One hop to a thread a transaction costs less than one a statement, and a function that never awaits cannot hold a
transaction open over a call to a node.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import structlog
from sqlalchemy import URL, Engine, create_engine
from sqlalchemy.exc import DBAPIError

from appliance.cubemaster.persistence.unit_of_work import UnitOfWork
from appliance.domain.errors import Unavailable

log = structlog.get_logger()

_R = TypeVar("_R")

_RETRY_LIMIT_S = 1.0
"""A pooled connection the server closed, or a deadlock, is cured at once; an outage is the caller's to wait out."""
_RETRY_PAUSE_S = 0.02
_LOCK_CONFLICTS = frozenset({1205, 1213})
"""MariaDB: lock wait timeout, deadlock. The transaction is gone; run again, it usually succeeds."""
_AWAY = frozenset({1040, 1053, 1927, 2002, 2003, 2006, 2013, 2055})
"""Too many connections, shutting down, connection killed, and the client's own ways to find nobody there."""
_CALL_LIMIT_S = 10


def database_url(*, socket: Path, name: str, user: str, password: str | None) -> URL:
    return URL.create(
        "mysql+mysqldb",
        username=user,
        password=password,
        host="localhost",
        database=name,
        query={"unix_socket": str(socket), "charset": "utf8mb4"},
    )


def make_engine(url: URL, *, connections: int) -> Engine:
    return create_engine(
        url,
        # Each statement sees what is committed, and no gap is locked: the transactions here guard rows, not ranges.
        isolation_level="READ COMMITTED",
        pool_size=connections,
        max_overflow=0,
        # Every transaction below ends in a commit or a rollback of its own; one more costs a round trip on each create.
        pool_reset_on_return=None,
        # They hold passwords and tokens, and a statement that fails is logged.
        hide_parameters=True,
        connect_args={
            "connect_timeout": _CALL_LIMIT_S,
            "read_timeout": _CALL_LIMIT_S,
            "write_timeout": _CALL_LIMIT_S,
            "init_command": "SET innodb_lock_wait_timeout = 5",
        },
    )


class Database:
    def __init__(self, engine: Engine, *, connections: int) -> None:
        self._engine = engine
        self._away = False
        self._threads = ThreadPoolExecutor(max_workers=connections, thread_name_prefix="database")

    async def transact(self, work: Callable[[UnitOfWork], _R]) -> _R:
        """Run `work` and commit what it did, or nothing of it.

        It may run more than once, so all its effects must be in the database. Raises Unavailable when the database is
        away, and whatever `work` raises.
        """
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._transact, work)

    def _transact(self, work: Callable[[UnitOfWork], _R]) -> _R:
        give_up = time.monotonic() + _RETRY_LIMIT_S
        while True:
            committing = False
            try:
                with self._engine.connect() as connection:
                    try:
                        result = work(UnitOfWork(connection))
                        committing = True
                        connection.commit()
                    except BaseException:
                        connection.rollback()
                        raise
                self._note(away=False)
                return result
            except DBAPIError as error:
                code = error.orig.args[0] if error.orig is not None and error.orig.args else None
                conflict, away = code in _LOCK_CONFLICTS, error.connection_invalidated or code in _AWAY
                if not conflict and not away:
                    raise
                # A commit whose answer was lost may have happened: only its caller can tell.
                if committing or time.monotonic() > give_up:
                    self._note(away=away, error=str(error.orig))
                    raise Unavailable(
                        "the database does not answer; see `journalctl -u mariadb` on the control node"
                    ) from error
                time.sleep(_RETRY_PAUSE_S)

    def _note(self, *, away: bool, error: str = "") -> None:
        """Log a change, not every failure: all loops and calls fail while the database is away."""
        if away != self._away:
            self._away = away
            log.warning("database_away" if away else "database_back", error=error)

    def close(self) -> None:
        """Wait for transactions that run, then close the connections."""
        self._threads.shutdown(wait=True)
        self._engine.dispose()
