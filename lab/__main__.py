"""`python3 -m lab up|down|prepare`."""

from __future__ import annotations

import argparse
import subprocess
import sys

from lab import deploy, host, preflight, virtualenv
from lab.stages import Stages


def main() -> None:
    """Run one command. Exit codes: 0 done, 1 a stage failed, 2 this host cannot carry the lab."""
    parser = argparse.ArgumentParser(prog="python3 -m lab", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("up", help="build everything, deploy the appliance, run the first sandboxes")
    commands.add_parser("down", help="remove the lab's machines, networks and files")
    prepare = commands.add_parser("prepare", help="install what the other commands and the tests need")
    prepare.add_argument("--tests", action="store_true", help="also what only the tests need")
    arguments = parser.parse_args()

    stages = Stages()
    try:
        with stages.stage("preflight"):
            preflight.check()
            preflight.install_packages(tests=arguments.command == "prepare" and arguments.tests)
        with stages.stage("Python environment"):
            virtualenv.make()
        if arguments.command == "up":
            deploy.up(stages)
        elif arguments.command == "down":
            deploy.down(stages)
    except preflight.Unsuitable as unsuitable:
        print(f"This host cannot carry the lab:\n{unsuitable}", file=sys.stderr)
        sys.exit(2)
    except subprocess.CalledProcessError as error:
        print(
            f"\nFailed in stage '{stages.current}': {host.shown(error.cmd)} ended with {error.returncode}",
            file=sys.stderr,
        )
        sys.exit(1)
    stages.summarize()


if __name__ == "__main__":
    main()
