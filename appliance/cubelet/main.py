"""Entry point of `cubelet.service`."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from pathlib import Path

from appliance.common import failpoints, logging, settings
from appliance.common.server import serve
from appliance.cubelet.app import create_app, production_drivers
from appliance.cubelet.settings import CubeletSettings
from appliance.domain.errors import CubeError


def main() -> None:
    """Serve until told to stop. Exit codes: 0 stopped, 1 failed, 2 the configuration or the node cannot be used."""
    parser = argparse.ArgumentParser(prog="cubelet", description="Node agent: the sandboxes of one node")
    parser.add_argument("--config", type=Path, default=Path("/etc/cube/cubelet.toml"))
    arguments = parser.parse_args()
    try:
        configuration = settings.load(CubeletSettings, arguments.config)
        logging.configure("cubelet", configuration.log_level)
        failpoints.arm(configuration.failpoints)
        app = create_app(configuration, asyncio.run(production_drivers(configuration)))
    except (settings.SettingsError, CubeError) as error:
        print(f"cubelet: {error}", file=sys.stderr)
        sys.exit(2)
    # uvloop opens no netlink sockets, which is how taps and routes are made.
    sys.exit(serve(app, bind=configuration.socket, environment=os.environ, loop="asyncio"))
