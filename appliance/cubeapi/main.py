"""Entry point of `cube-api.service`."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from appliance.common import logging, settings
from appliance.common.server import serve
from appliance.cubeapi.app import create_app
from appliance.cubeapi.settings import CubeApiSettings


def main() -> None:
    """Serve until told to stop. Exit codes: 0 stopped, 1 failed, 2 the configuration cannot be used."""
    parser = argparse.ArgumentParser(prog="cube-api", description="E2B-compatible REST gateway of the appliance")
    parser.add_argument("--config", type=Path, default=Path("/etc/cube/cube-api.toml"))
    parser.add_argument(
        "--credentials",
        type=Path,
        help="directory of the secrets; default: $CREDENTIALS_DIRECTORY, which systemd sets",
    )
    arguments = parser.parse_args()
    credentials = arguments.credentials or Path(os.environ.get("CREDENTIALS_DIRECTORY", "/etc/cube/secrets"))
    try:
        configuration = settings.load(CubeApiSettings, arguments.config)
        admin_token = settings.read_secret(credentials, "admin-token") if configuration.admin_token else None
    except settings.SettingsError as error:
        print(f"cube-api: {error}", file=sys.stderr)
        sys.exit(2)
    logging.configure("cube-api", configuration.log_level)
    app = create_app(configuration, admin_token=admin_token)
    sys.exit(serve(app, bind=(configuration.host, configuration.port), environment=os.environ))
