"""`python -m guest_agent`."""

from __future__ import annotations

import argparse
import gc
import os
import resource
import sys
from ipaddress import IPv4Address
from pathlib import Path

from guest_agent.app import make_agent
from guest_agent.server import listen, serve
from guest_agent.settings import Settings

_SOFT_DESCRIPTORS = 65_536
_HARD_DESCRIPTORS = 524_288


def parse_arguments(arguments: list[str]) -> Settings:
    defaults = Settings()
    parser = argparse.ArgumentParser(prog="guest_agent", description="E2B's envd protocol, inside a sandbox.")
    parser.add_argument("--host", default=defaults.host)
    parser.add_argument("--port", type=int, default=defaults.port)
    parser.add_argument("--state-file", type=Path, default=defaults.state_file)
    parser.add_argument("--marker-directory", type=Path, default=defaults.marker_directory)
    parser.add_argument("--heartbeat-fd", type=int, metavar="DESCRIPTOR", help="eventfd of the process that watches")
    parser.add_argument(
        "--init-from",
        type=IPv4Address,
        action="append",
        default=[],
        metavar="ADDRESS",
        help="accept /init from this address although it is the machine's own",
    )
    parser.add_argument(
        "--borrowed-machine",
        action="store_true",
        help="leave clock, names, kernel random numbers and loopback services of the machine alone: not inside a guest",
    )
    parsed = parser.parse_args(arguments)
    return Settings(
        host=parsed.host,
        port=parsed.port,
        state_file=parsed.state_file,
        marker_directory=parsed.marker_directory,
        heartbeat_fd=parsed.heartbeat_fd,
        init_from=tuple(parsed.init_from),
        own_machine=not parsed.borrowed_machine,
    )


def raise_descriptor_limit() -> None:
    """Allow as many open files as a service manager would. The kernel gives its first process, and so us, 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(soft, _SOFT_DESCRIPTORS)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(hard, _HARD_DESCRIPTORS)))
    except (ValueError, OSError):
        # Without CAP_SYS_RESOURCE, as in a container: what is granted already must do.
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))


def main() -> None:
    settings = parse_arguments(sys.argv[1:])
    os.umask(0o022)
    os.chdir("/")
    raise_descriptor_limit()
    agent = make_agent(settings)
    listener = listen(settings)
    print(f"listening on {listener.getsockname()[1]}", flush=True)
    # What is alive now stays alive. A collection would write to each of these objects' pages, which clones share.
    gc.collect()
    gc.freeze()
    serve(agent.app, listener, on_start=agent.on_start)


if __name__ == "__main__":
    main()
