"""Alembic's entry point. It runs on the connection that `persistence/schema.py` passes in."""

from __future__ import annotations

from alembic import context

from appliance.cubemaster.persistence.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
