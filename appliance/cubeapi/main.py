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
    arguments = parser.parse_args()
    try:
        configuration = settings.load(CubeApiSettings, arguments.config)
    except settings.SettingsError as error:
        print(f"cube-api: {error}", file=sys.stderr)
        sys.exit(2)
    logging.configure("cube-api", configuration.log_level)
    sys.exit(serve(create_app(configuration), bind=(configuration.host, configuration.port), environment=os.environ))
