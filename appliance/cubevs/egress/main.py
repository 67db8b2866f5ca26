"""Entry point of `cubevs-egress.service`."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from appliance.common import logging, settings
from appliance.common.server import serve
from appliance.cubevs.egress.app import create_app
from appliance.cubevs.egress.settings import EgressSettings


def main() -> None:
    """Serve until told to stop. Exit codes: 0 stopped, 1 failed, 2 the configuration cannot be used."""
    parser = argparse.ArgumentParser(prog="cubevs-egress", description="Egress proxy: what sandboxes reach by domain")
    parser.add_argument("--config", type=Path, default=Path("/etc/cube/cubevs-egress.toml"))
    arguments = parser.parse_args()
    try:
        configuration = settings.load(EgressSettings, arguments.config)
    except settings.SettingsError as error:
        print(f"cubevs-egress: {error}", file=sys.stderr)
        sys.exit(2)
    logging.configure("cubevs-egress", configuration.log_level)
    try:
        app = create_app(configuration)
    except OSError as error:
        print(f"cubevs-egress: the trusted certificates cannot be read: {error}", file=sys.stderr)
        sys.exit(2)
    # uvloop opens no netlink sockets, by which the node's addresses are known.
    sys.exit(serve(app, bind=configuration.socket, environment=os.environ, loop="asyncio"))
