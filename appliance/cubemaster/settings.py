"""CubeMaster's settings: `/etc/cube/cube-master.toml`.

Secrets are not in that file. Each is a systemd credential (`LoadCredential=`) of the unit:

    envd-seed        HMAC key from which each sandbox's access token is derived, and the key of upload signatures
    secrets-key      64 hex digits: the key that teams' secrets are sealed with, and that the key which workload tokens
                     are signed with is derived from
    mysql-password   unless `database.password = false`, where MariaDB knows the process by its user (unix_socket)
    redis-password   unless `redis.password = false`
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from appliance.common.settings import Settings


class DatabaseSettings(Settings):
    socket: Path = Path("/run/mysqld/mysqld.sock")
    name: str = "cube_master"
    user: str = "cube-master"
    password: bool = True
    """Whether the server asks for the credential `mysql-password`."""
    connections: int = Field(default=8, ge=1, le=256)
    """Also the number of threads: each transaction runs on one thread with one connection."""


class RedisSettings(Settings):
    socket: Path = Path("/run/redis/redis-server.sock")
    username: str | None = None
    password: bool = True
    """Whether the server asks for the credential `redis-password`."""


class NodeSettings(Settings):
    lost_after_s: float = Field(default=15, gt=0)
    """Silence after which a node's sandboxes have ended for good."""
    missing_grace_s: float = Field(default=10, gt=0)
    """How long a running sandbox may be absent from its node's heartbeats."""
    call_deadline_s: float = Field(default=10, gt=0)
    create_deadline_s: float = Field(default=45, gt=0)
    """Limit of one create on the node. Callers of CubeMaster wait longer, so that they hear why it failed."""
    save_deadline_s: float = Field(default=300, gt=0)
    """Limit of one pause, resume or snapshot on the node, which writes or reads what a guest has in memory."""


class QuotaSettings(Settings):
    """What each team may have at one time, unless it has limits of its own. 0 is no limit but the nodes'."""

    concurrent_sandboxes: int = Field(default=100, ge=0)
    """Those that run or start; paused ones do not count."""
    vcpus: int = Field(default=0, ge=0)
    memory_mib: int = Field(default=0, ge=0)
    disk_mib: int = Field(default=0, ge=0)
    """Of all its sandboxes, paused ones included, and of its volumes."""
    concurrent_builds: int = Field(default=20, ge=0)
    """Template builds that were started and have not ended."""
    volumes: int = Field(default=20, ge=0)


class VolumeSettings(Settings):
    size_mib: int = Field(default=10240, ge=16)
    """What fits into a volume: what the nodes make their slots for. Blocks that hold nothing take no room there."""
    unknown_grace_s: float = Field(default=3600, gt=0)
    """How long a node may have a volume that no row names, before it is deleted there: so long, an operator who has
    restored an older database may find out."""
    sweep_interval_s: float = Field(default=60, gt=0)
    """How often nodes are asked which volumes they have."""
    idle_s: float = Field(default=150, gt=0)
    """How long an upload or download of content may stand still. Nodes give up earlier, and say why."""


class BuildSettings(Settings):
    poll_interval_s: float = Field(default=0.5, gt=0)
    deadline_s: float = Field(default=1800, gt=0)
    """From its start to READY; later it is an ERROR."""
    draft_lifetime_s: float = Field(default=3600, gt=0)
    """How long a build may be asked for, and its files put, before it is started."""
    max_drafts: int = Field(default=100, ge=1)
    """How many builds a team may have asked for and not started."""
    tidy_interval_s: float = Field(default=60, gt=0)
    """How often drafts that were given up, and files that nobody needs, are looked for."""
    default_vcpus: int = Field(default=2, ge=1)
    default_memory_mib: int = Field(default=1024, ge=128)
    steps_room_mib: int = Field(default=4096, ge=16)
    """Disk for what the steps of a build and its sandboxes write. Blocks that hold nothing take no room on the node."""
    max_vcpus: int = Field(default=8, ge=1)
    max_memory_mib: int = Field(default=8192, ge=128)
    max_free_disk_mib: int = Field(default=20480, ge=0)
    """How much more disk than that a build may ask for."""
    internal_registries: tuple[str, ...] = ()
    """`host[:port]` of registries on internal addresses that all teams may build from; others are refused."""


class FileSettings(Settings):
    """Archives of COPY steps, kept until builds took them and for the next builds."""

    max_bytes: int = Field(default=2**30, ge=1)
    team_max_bytes: int = Field(default=10 * 2**30, ge=1)
    reserve_bytes: int = Field(default=2**30, ge=0)
    """Room on the disk that no archive may take."""
    keep_unused_days: float = Field(default=7, gt=0)
    idle_s: float = Field(default=60, gt=0)
    """How long an upload may stand still."""


class CubeMasterSettings(Settings):
    socket: Path = Path("/run/cube/cube-master/api.sock")
    data_dir: Path = Path("/var/lib/cube/cube-master")
    failpoints: Path | None = None
    """File by which a test makes this process fail at a given step. For tests alone."""
    domain: str = "cube.app"
    """CubeAPI is `https://api.<domain>`, which vouches for workload tokens."""
    log_level: str = "info"
    route_check_interval_s: float = Field(default=0.5, gt=0)
    """How often Redis is asked whether it still has the routes."""
    database: DatabaseSettings = DatabaseSettings()
    redis: RedisSettings = RedisSettings()
    nodes: NodeSettings = NodeSettings()
    quotas: QuotaSettings = QuotaSettings()
    builds: BuildSettings = BuildSettings()
    files: FileSettings = FileSettings()
    volumes: VolumeSettings = VolumeSettings()
