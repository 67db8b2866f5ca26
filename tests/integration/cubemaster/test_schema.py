from __future__ import annotations

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from appliance.cubemaster.persistence.database import make_engine
from appliance.cubemaster.persistence.schema import current_revision, migrate, newest_revision
from appliance.cubemaster.persistence.tables import metadata
from tests.support.mariadb import MariaDb


def test_migrations_make_the_schema_that_queries_expect(server: MariaDb) -> None:
    engine = make_engine(server.url("cube_master"), connections=1)
    with engine.connect() as connection:
        assert current_revision(connection) == newest_revision()
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    engine.dispose()


def test_migrating_again_changes_nothing(server: MariaDb) -> None:
    engine = make_engine(server.url("cube_master"), connections=1)
    before, after = migrate(engine)
    engine.dispose()
    assert before == after == newest_revision()


def test_a_statement_that_fails_keeps_its_values_to_itself(server: MariaDb) -> None:
    engine = make_engine(server.url("cube_master"), connections=1)
    with engine.connect() as connection, pytest.raises(DBAPIError) as raised:
        connection.execute(text("SELECT nothing_of_the_kind, :password"), {"password": "s3cret"})
    engine.dispose()
    assert "nothing_of_the_kind" in str(raised.value)
    assert "s3cret" not in str(raised.value)
