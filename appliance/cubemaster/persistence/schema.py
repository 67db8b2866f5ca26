"""Bringing the database to the schema of this release."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text

from appliance.domain.errors import Unavailable

_LOCK_WAIT_S = 8
"""Below the read timeout of the connection."""


def migrate(engine: Engine) -> tuple[str | None, str | None]:
    """Apply what is missing; return the revision before and after. Safe to repeat, and from several machines."""
    with engine.connect() as connection:
        if not connection.scalar(text("SELECT GET_LOCK('cube_master_migrate', :wait)"), {"wait": _LOCK_WAIT_S}):
            raise Unavailable("another migration is running; try again when it has ended")
        try:
            before = current_revision(connection)
            connection.commit()
            config = _config()
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            connection.commit()
            return before, current_revision(connection)
        finally:
            connection.rollback()
            connection.execute(text("DO RELEASE_LOCK('cube_master_migrate')"))
            connection.commit()


def current_revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def newest_revision() -> str | None:
    return ScriptDirectory.from_config(_config()).get_current_head()


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent.parent / "migrations"))
    return config
