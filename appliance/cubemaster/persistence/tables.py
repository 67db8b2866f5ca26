"""The schema, as queries see it. The migrations make it; a test holds the two together.

Times are DATETIME(6) in UTC. Sizes carry their unit. Ids are compared byte by byte (`utf8mb4_bin`).
"""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
)
from sqlalchemy.dialects.mysql import DATETIME, MEDIUMBLOB

metadata = MetaData()


class UtcDateTime(TypeDecorator[datetime]):
    """Aware UTC in Python, DATETIME(6) in the database, which knows no zones."""

    impl = DATETIME(fsp=6)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.replace(tzinfo=UTC)


def _id(length: int = 36) -> String:
    return String(length, collation="utf8mb4_bin")


def _word() -> String:
    """A value of one of our enumerations."""
    return String(16, collation="utf8mb4_bin")


teams = Table(
    "teams",
    metadata,
    Column("team_id", _id(), primary_key=True),
    Column("slug", _id(64), nullable=False, unique=True),
    Column("created_at", UtcDateTime, nullable=False),
    # What the team may have at one time. NULL is the setting's default, 0 no limit.
    Column("max_sandboxes", Integer),
    Column("max_vcpus", Integer),
    Column("max_memory_mib", BigInteger),
    Column("max_disk_mib", BigInteger),
    Column("max_builds", Integer),
    Column("max_volumes", Integer),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("key_id", _id(), primary_key=True),
    Column("team_id", _id(), ForeignKey("teams.team_id"), nullable=False),
    Column("name", String(255), nullable=False),
    Column("sha256", _id(64), nullable=False, unique=True),
    Column("mask", _id(16), nullable=False),
    # NULL: every scope there is, those of later releases included.
    Column("scopes", JSON(none_as_null=True)),
    Column("created_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime),
    Column("last_used_at", UtcDateTime),
    Column("revoked_at", UtcDateTime),
)

nodes = Table(
    "nodes",
    metadata,
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
    # Sums over the node's live sandboxes that are not paused, kept here so that taking a reservation is one
    # conditional UPDATE. They change only together with the sandbox row that takes or gives back.
    Column("vcpus_reserved", Integer, nullable=False),
    Column("memory_reserved_mib", BigInteger, nullable=False),
    # Counts heartbeats: see HeartbeatWatch for why a time would not do.
    Column("heartbeats", BigInteger, nullable=False),
    Column("last_heartbeat_at", UtcDateTime, nullable=False),
    # The operator's word, which no heartbeat changes: it gets nothing new.
    Column("draining", Boolean, nullable=False),
    # Of `state` or `draining`.
    Column("status_changed_at", UtcDateTime, nullable=False),
    # What it said of the machine below it; NULL until it does.
    Column("host", JSON(none_as_null=True)),
)

templates = Table(
    "templates",
    metadata,
    Column("template_id", _id(), primary_key=True),
    Column("team_id", _id(), ForeignKey("teams.team_id"), nullable=False),
    # A `TemplateKind`: snapshots of sandboxes are templates too.
    Column("kind", _word(), nullable=False),
    Column("public", Boolean, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    # Ended sandboxes still name their template, so it goes out of sight rather than away.
    Column("deleted_at", UtcDateTime),
)

template_aliases = Table(
    "template_aliases",
    metadata,
    Column("team_id", _id(), ForeignKey("teams.team_id"), primary_key=True),
    Column("alias", _id(128), primary_key=True),
    Column("template_id", _id(), ForeignKey("templates.template_id"), nullable=False),
    Index("ix_template_aliases_alias", "alias"),
)

builds = Table(
    "builds",
    metadata,
    Column("build_id", _id(), primary_key=True),
    Column("template_id", _id(), ForeignKey("templates.template_id"), nullable=False),
    Column("tags", JSON, nullable=False),
    Column("status", _word(), nullable=False),
    # One of image and from_build, once it is started.
    Column("image", String(1024)),
    Column("from_build", _id()),
    # Until the build ends, then NULL.
    Column("registry_username", String(255)),
    Column("registry_password", Text),
    Column("registry_aws_region", String(32)),
    # Until the build ends, as the login. NULL for an image as it is.
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
    # Of a build that was taken of a sandbox on its node, rather than handed to nodes.
    Column("source_sandbox_id", _id()),
    Column("created_at", UtcDateTime, nullable=False),
    Column("started_at", UtcDateTime),
    Column("finished_at", UtcDateTime),
    Column("lease_token", _id()),
    Column("lease_until", UtcDateTime),
    Index("ix_builds_status", "status", "lease_until"),
    Index("ix_builds_template", "template_id", "created_at"),
)

template_tags = Table(
    "template_tags",
    metadata,
    Column("template_id", _id(), ForeignKey("templates.template_id"), primary_key=True),
    Column("tag", _id(128), primary_key=True),
    Column("build_id", _id(), ForeignKey("builds.build_id"), nullable=False),
    Column("assigned_at", UtcDateTime, nullable=False),
)

build_logs = Table(
    "build_logs",
    metadata,
    Column("build_id", _id(), ForeignKey("builds.build_id"), primary_key=True),
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("at", UtcDateTime, nullable=False),
    Column("level", _word(), nullable=False),
    Column("message", Text, nullable=False),
    Column("step", String(64)),
)

# Archives of COPY steps, which are files of the same name below CubeMaster's data directory.
template_files = Table(
    "template_files",
    metadata,
    Column("team_id", _id(), ForeignKey("teams.team_id"), primary_key=True),
    Column("files_hash", _id(64), primary_key=True),
    # The one that used it last: the file goes with it.
    Column("template_id", _id(), ForeignKey("templates.template_id"), nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("used_at", UtcDateTime, nullable=False),
    Index("ix_template_files_used", "used_at"),
)

replicas = Table(
    "replicas",
    metadata,
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

sandboxes = Table(
    "sandboxes",
    metadata,
    Column("sandbox_id", _id(), primary_key=True),
    Column("team_id", _id(), ForeignKey("teams.team_id"), nullable=False),
    Column("template_id", _id(), ForeignKey("templates.template_id"), nullable=False),
    Column("build_id", _id(), nullable=False),
    Column("alias", String(128)),
    # No foreign key: its shared lock on the node's row would deadlock with the reservation that follows.
    Column("node_id", _id(64), nullable=False),
    Column("state", _word(), nullable=False),
    Column("vcpus", Integer, nullable=False),
    Column("memory_mib", Integer, nullable=False),
    Column("disk_size_mib", Integer, nullable=False),
    Column("envd_version", String(32), nullable=False),
    Column("secure", Boolean, nullable=False),
    Column("metadata", JSON, nullable=False),
    # A `SandboxNetwork`; what is absent has its default.
    Column("network", JSON, nullable=False),
    # Of `KeptRules`, and `PrivateRules` sealed.
    Column("network_revision", _id(32), nullable=False),
    Column("sealed_rules", MEDIUMBLOB),
    Column("rule_secrets", JSON, nullable=False),
    Column("tokens_due_at", UtcDateTime),
    # The audience of each.
    Column("workload_tokens", JSON, nullable=False),
    # Each `Mount` it was made with; who has a volume now is in `volume_attachments`.
    Column("volumes", JSON, nullable=False),
    Column("on_timeout", _word(), nullable=False),
    Column("auto_resume", Boolean, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("paused_at", UtcDateTime),
    Column("filesystem_only", Boolean, nullable=False),
    Column("changing_since", UtcDateTime),
    Column("address", String(45)),
    Column("idempotency_key", _id(255)),
    Column("started_at", UtcDateTime, nullable=False),
    Column("end_at", UtcDateTime, nullable=False),
    Column("end_reason", _word()),
    Column("end_detail", Text),
    Column("ended_at", UtcDateTime),
    UniqueConstraint("team_id", "idempotency_key", name="uq_sandboxes_idempotency"),
    Index("ix_sandboxes_team", "team_id", "state", "started_at", "sandbox_id"),
    Index("ix_sandboxes_state", "state", "started_at", "sandbox_id"),
    Index("ix_sandboxes_node", "node_id", "state"),
    Index("ix_sandboxes_template", "template_id", "state", "started_at"),
    Index("ix_sandboxes_team_ended", "team_id", "ended_at"),
    Index("ix_sandboxes_tokens_due", "tokens_due_at"),
)

events = Table(
    "events",
    metadata,
    Column("event_id", BigInteger, primary_key=True, autoincrement=True),
    Column("at", UtcDateTime, nullable=False),
    Column("kind", String(32, collation="utf8mb4_bin"), nullable=False),
    Column("team_id", _id()),
    Column("sandbox_id", _id()),
    Column("node_id", _id(64)),
    Column("detail", JSON, nullable=False),
    Index("ix_events_sandbox", "sandbox_id"),
    Index("ix_events_at", "at"),
    Index("ix_events_team", "team_id", "at"),
)

secrets = Table(
    "secrets",
    metadata,
    Column("secret_id", _id(), primary_key=True),
    Column("team_id", _id(), ForeignKey("teams.team_id"), nullable=False),
    Column("name", _id(128), nullable=False),
    Column("current_version", Integer, nullable=False),
    Column("metadata", JSON, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    UniqueConstraint("team_id", "name", name="uq_secrets_name"),
    Index("ix_secrets_team", "team_id", "created_at", "secret_id"),
)

secret_versions = Table(
    "secret_versions",
    metadata,
    Column("secret_id", _id(), ForeignKey("secrets.secret_id"), primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    # Nonce and ciphertext of AES-GCM: see services/sealing.py.
    Column("sealed", MEDIUMBLOB, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
)

volumes = Table(
    "volumes",
    metadata,
    Column("volume_id", _id(), primary_key=True),
    Column("team_id", _id(), ForeignKey("teams.team_id"), nullable=False),
    # NULL once it is being deleted: the name is free for another one.
    Column("name", _id(128)),
    # Where it lies, for good. No foreign key, as in `sandboxes`.
    Column("node_id", _id(64), nullable=False),
    Column("state", _word(), nullable=False),
    Column("size_mib", BigInteger, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    UniqueConstraint("team_id", "name", name="uq_volumes_name"),
    Index("ix_volumes_node", "node_id"),
    Index("ix_volumes_state", "state", "created_at"),
)

# Which sandbox has which volume, from its create until it ends. The key is the rule: one at a time.
volume_attachments = Table(
    "volume_attachments",
    metadata,
    Column("volume_id", _id(), ForeignKey("volumes.volume_id"), primary_key=True),
    Column("sandbox_id", _id(), ForeignKey("sandboxes.sandbox_id"), nullable=False),
)
