"""The first schema."""

from __future__ import annotations

from alembic import op
from sqlalchemy import JSON, BigInteger, Boolean, Column, ForeignKey, Index, Integer, String, Text, UniqueConstraint
from sqlalchemy.dialects.mysql import DATETIME, MEDIUMBLOB

revision = "0001"
down_revision = None


def _id(length: int = 36) -> String:
    return String(length, collation="utf8mb4_bin")


def _word() -> String:
    return String(16, collation="utf8mb4_bin")


def upgrade() -> None:
    op.create_table(
        "teams",
        Column("team_id", _id(), primary_key=True),
        Column("slug", _id(64), nullable=False, unique=True),
        Column("created_at", DATETIME(fsp=6), nullable=False),
        Column("max_sandboxes", Integer),
        Column("max_vcpus", Integer),
        Column("max_memory_mib", BigInteger),
        Column("max_disk_mib", BigInteger),
        Column("max_builds", Integer),
        Column("max_volumes", Integer),
    )
    op.create_table(
        "api_keys",
        Column("key_id", _id(), primary_key=True),
        Column("team_id", _id(), ForeignKey("teams.team_id"), nullable=False),
        Column("name", String(255), nullable=False),
        Column("sha256", _id(64), nullable=False, unique=True),
        Column("mask", _id(16), nullable=False),
        Column("scopes", JSON),
        Column("created_at", DATETIME(fsp=6), nullable=False),
        Column("expires_at", DATETIME(fsp=6)),
        Column("last_used_at", DATETIME(fsp=6)),
        Column("revoked_at", DATETIME(fsp=6)),
    )
    op.create_table(
        "nodes",
        Column("node_id", _id(64), primary_key=True),
        Column("state", _word(), nullable=False),
        Column("detail", Text, nullable=False),
        Column("endpoint", String(255), nullable=False),
        Column("version", String(64), nullable=False),
        Column("boot_id", _id(), nullable=False),
        Column("vmm", String(64), nullable=False),
        Column("accelerator", String(64), nullable=False),
        Column("vcpus", Integer, nullable=False),
        Column("memory_mib", BigInteger, nullable=False),
        Column("disk_free_mib", BigInteger, nullable=False),
        Column("vcpus_reserved", Integer, nullable=False),
        Column("memory_reserved_mib", BigInteger, nullable=False),
        Column("heartbeats", BigInteger, nullable=False),
        Column("last_heartbeat_at", DATETIME(fsp=6), nullable=False),
        Column("draining", Boolean, nullable=False),
        Column("status_changed_at", DATETIME(fsp=6), nullable=False),
        Column("host", JSON),
    )
    op.create_table(
        "templates",
        Column("template_id", _id(), primary_key=True),
        Column("team_id", _id(), ForeignKey("teams.team_id"), nullable=False),
        Column("kind", _word(), nullable=False),
        Column("public", Boolean, nullable=False),
        Column("created_at", DATETIME(fsp=6), nullable=False),
        Column("updated_at", DATETIME(fsp=6), nullable=False),
        Column("deleted_at", DATETIME(fsp=6)),
    )
    op.create_table(
        "template_aliases",
        Column("team_id", _id(), ForeignKey("teams.team_id"), primary_key=True),
        Column("alias", _id(128), primary_key=True),
        Column("template_id", _id(), ForeignKey("templates.template_id"), nullable=False),
        Index("ix_template_aliases_alias", "alias"),
    )
    op.create_table(
        "builds",
        Column("build_id", _id(), primary_key=True),
        Column("template_id", _id(), ForeignKey("templates.template_id"), nullable=False),
        Column("tags", JSON, nullable=False),
        Column("status", _word(), nullable=False),
        Column("image", String(1024)),
        Column("from_build", _id()),
        Column("registry_username", String(255)),
        Column("registry_password", Text),
        Column("registry_aws_region", String(32)),
        Column("steps", JSON(none_as_null=True)),
        Column("force", Boolean, nullable=False),
        Column("vcpus", Integer, nullable=False),
        Column("memory_mib", Integer, nullable=False),
        Column("writable_layer_mib", Integer, nullable=False),
        Column("start_cmd", Text),
        Column("ready_cmd", Text),
        Column("probe_port", Integer),
        Column("exposed_ports", JSON, nullable=False),
        Column("reason", Text),
        Column("step", String(64)),
        Column("disk_size_mib", Integer),
        Column("envd_version", String(32)),
        Column("source_sandbox_id", _id()),
        Column("created_at", DATETIME(fsp=6), nullable=False),
        Column("started_at", DATETIME(fsp=6)),
        Column("finished_at", DATETIME(fsp=6)),
        Column("lease_token", _id()),
        Column("lease_until", DATETIME(fsp=6)),
        Index("ix_builds_status", "status", "lease_until"),
        Index("ix_builds_template", "template_id", "created_at"),
    )
    op.create_table(
        "template_tags",
        Column("template_id", _id(), ForeignKey("templates.template_id"), primary_key=True),
        Column("tag", _id(128), primary_key=True),
        Column("build_id", _id(), ForeignKey("builds.build_id"), nullable=False),
        Column("assigned_at", DATETIME(fsp=6), nullable=False),
    )
    op.create_table(
        "build_logs",
        Column("build_id", _id(), ForeignKey("builds.build_id"), primary_key=True),
        Column("seq", Integer, primary_key=True, autoincrement=False),
        Column("at", DATETIME(fsp=6), nullable=False),
        Column("level", _word(), nullable=False),
        Column("message", Text, nullable=False),
        Column("step", String(64)),
    )
    op.create_table(
        "template_files",
        Column("team_id", _id(), ForeignKey("teams.team_id"), primary_key=True),
        Column("files_hash", _id(64), primary_key=True),
        Column("template_id", _id(), ForeignKey("templates.template_id"), nullable=False),
        Column("size_bytes", BigInteger, nullable=False),
        Column("used_at", DATETIME(fsp=6), nullable=False),
        Index("ix_template_files_used", "used_at"),
    )
    op.create_table(
        "replicas",
        Column("build_id", _id(), ForeignKey("builds.build_id"), primary_key=True),
        Column("node_id", _id(64), ForeignKey("nodes.node_id"), primary_key=True),
        Column("state", _word(), nullable=False),
        Column("pooled", Integer, nullable=False),
        Column("log_offset", Integer, nullable=False),
        Column("attempt", Integer, nullable=False),
        Column("reason", Text),
        Column("step", String(64)),
        Index("ix_replicas_node", "node_id"),
    )
    op.create_table(
        "sandboxes",
        Column("sandbox_id", _id(), primary_key=True),
        Column("team_id", _id(), ForeignKey("teams.team_id"), nullable=False),
        Column("template_id", _id(), ForeignKey("templates.template_id"), nullable=False),
        Column("build_id", _id(), nullable=False),
        Column("alias", String(128)),
        Column("node_id", _id(64), nullable=False),
        Column("state", _word(), nullable=False),
        Column("vcpus", Integer, nullable=False),
        Column("memory_mib", Integer, nullable=False),
        Column("disk_size_mib", Integer, nullable=False),
        Column("envd_version", String(32), nullable=False),
        Column("secure", Boolean, nullable=False),
        Column("metadata", JSON, nullable=False),
        Column("network", JSON, nullable=False),
        Column("network_revision", _id(32), nullable=False),
        Column("sealed_rules", MEDIUMBLOB),
        Column("rule_secrets", JSON, nullable=False),
        Column("tokens_due_at", DATETIME(fsp=6)),
        Column("workload_tokens", JSON, nullable=False),
        Column("volumes", JSON, nullable=False),
        Column("on_timeout", _word(), nullable=False),
        Column("auto_resume", Boolean, nullable=False),
        Column("generation", Integer, nullable=False),
        Column("paused_at", DATETIME(fsp=6)),
        Column("filesystem_only", Boolean, nullable=False),
        Column("changing_since", DATETIME(fsp=6)),
        Column("address", String(45)),
        Column("idempotency_key", _id(255)),
        Column("started_at", DATETIME(fsp=6), nullable=False),
        Column("end_at", DATETIME(fsp=6), nullable=False),
        Column("end_reason", _word()),
        Column("end_detail", Text),
        Column("ended_at", DATETIME(fsp=6)),
        UniqueConstraint("team_id", "idempotency_key", name="uq_sandboxes_idempotency"),
        Index("ix_sandboxes_team", "team_id", "state", "started_at", "sandbox_id"),
        Index("ix_sandboxes_state", "state", "started_at", "sandbox_id"),
        Index("ix_sandboxes_node", "node_id", "state"),
        Index("ix_sandboxes_template", "template_id", "state", "started_at"),
        Index("ix_sandboxes_team_ended", "team_id", "ended_at"),
        Index("ix_sandboxes_tokens_due", "tokens_due_at"),
    )
    op.create_table(
        "events",
        Column("event_id", BigInteger, primary_key=True, autoincrement=True),
        Column("at", DATETIME(fsp=6), nullable=False),
        Column("kind", String(32, collation="utf8mb4_bin"), nullable=False),
        Column("team_id", _id()),
        Column("sandbox_id", _id()),
        Column("node_id", _id(64)),
        Column("detail", JSON, nullable=False),
        Index("ix_events_sandbox", "sandbox_id"),
        Index("ix_events_at", "at"),
        Index("ix_events_team", "team_id", "at"),
    )
    op.create_table(
        "secrets",
        Column("secret_id", _id(), primary_key=True),
        Column("team_id", _id(), ForeignKey("teams.team_id"), nullable=False),
        Column("name", _id(128), nullable=False),
        Column("current_version", Integer, nullable=False),
        Column("metadata", JSON, nullable=False),
        Column("created_at", DATETIME(fsp=6), nullable=False),
        Column("updated_at", DATETIME(fsp=6), nullable=False),
        UniqueConstraint("team_id", "name", name="uq_secrets_name"),
        Index("ix_secrets_team", "team_id", "created_at", "secret_id"),
    )
    op.create_table(
        "secret_versions",
        Column("secret_id", _id(), ForeignKey("secrets.secret_id"), primary_key=True),
        Column("version", Integer, primary_key=True, autoincrement=False),
        Column("sealed", MEDIUMBLOB, nullable=False),
        Column("created_at", DATETIME(fsp=6), nullable=False),
    )
    op.create_table(
        "volumes",
        Column("volume_id", _id(), primary_key=True),
        Column("team_id", _id(), ForeignKey("teams.team_id"), nullable=False),
        Column("name", _id(128)),
        Column("node_id", _id(64), nullable=False),
        Column("state", _word(), nullable=False),
        Column("size_mib", BigInteger, nullable=False),
        Column("created_at", DATETIME(fsp=6), nullable=False),
        UniqueConstraint("team_id", "name", name="uq_volumes_name"),
        Index("ix_volumes_node", "node_id"),
        Index("ix_volumes_state", "state", "created_at"),
    )
    op.create_table(
        "volume_attachments",
        Column("volume_id", _id(), ForeignKey("volumes.volume_id"), primary_key=True),
        Column("sandbox_id", _id(), ForeignKey("sandboxes.sandbox_id"), nullable=False),
    )


def downgrade() -> None:
    for table in (
        "volume_attachments",
        "volumes",
        "secret_versions",
        "secrets",
        "events",
        "sandboxes",
        "replicas",
        "template_files",
        "build_logs",
        "template_tags",
        "builds",
        "template_aliases",
        "templates",
        "nodes",
        "api_keys",
        "teams",
    ):
        op.drop_table(table)
