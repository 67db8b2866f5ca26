"""Entry point of `cube-master.service`, and of the migration that is run before it starts."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from appliance.common import failpoints, logging, settings
from appliance.common.server import serve
from appliance.cubemaster.app import Secrets, create_app
from appliance.cubemaster.persistence.database import database_url, make_engine
from appliance.cubemaster.persistence.schema import migrate
from appliance.cubemaster.settings import CubeMasterSettings
from appliance.domain.errors import CubeError


def main() -> None:
    """Serve until told to stop, or migrate. Exit codes: 0 done, 1 failed, 2 the configuration cannot be used."""
    parser = argparse.ArgumentParser(prog="cube-master", description="Cluster orchestrator of the appliance")
    parser.add_argument("command", nargs="?", choices=("serve", "migrate"), default="serve")
    parser.add_argument("--config", type=Path, default=Path("/etc/cube/cube-master.toml"))
    parser.add_argument(
        "--credentials",
        type=Path,
        help="directory of the secrets; default: $CREDENTIALS_DIRECTORY, which systemd sets",
    )
    arguments = parser.parse_args()
    credentials = arguments.credentials or Path(os.environ.get("CREDENTIALS_DIRECTORY", "/etc/cube/secrets"))
    try:
        configuration = settings.load(CubeMasterSettings, arguments.config)
        database = configuration.database
        mysql_password = settings.read_secret(credentials, "mysql-password") if database.password else None
        if arguments.command == "migrate":
            sys.exit(_migrate(configuration, mysql_password))
        secrets = Secrets(
            envd_seed=settings.read_secret(credentials, "envd-seed"),
            secrets_key=settings.read_secret(credentials, "secrets-key"),
            mysql_password=mysql_password,
            redis_password=(
                settings.read_secret(credentials, "redis-password") if configuration.redis.password else None
            ),
        )
    except settings.SettingsError as error:
        print(f"cube-master: {error}", file=sys.stderr)
        sys.exit(2)
    logging.configure("cube-master", configuration.log_level)
    failpoints.arm(configuration.failpoints)
    sys.exit(serve(create_app(configuration, secrets), bind=configuration.socket, environment=os.environ))


def _migrate(configuration: CubeMasterSettings, password: str | None) -> int:
    """Bring the schema up to date and say on standard output whether it changed, which Ansible reads."""
    database = configuration.database
    url = database_url(socket=database.socket, name=database.name, user=database.user, password=password)
    engine = make_engine(url, connections=1)
    try:
        before, after = migrate(engine)
    except (SQLAlchemyError, CubeError) as error:
        print(f"cube-master: the database could not be migrated: {error}", file=sys.stderr)
        return 1
    finally:
        engine.dispose()
    print(f"schema unchanged at {after}" if before == after else f"schema migrated from {before} to {after}")
    return 0
