"""Host name, machine id, and the files by which programs find out that they are in a sandbox.

The root file system may be read-only or lack /etc: what cannot be written there is left as the image has it.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from pathlib import Path

from guest_agent.plainfile import overwrite, read
from guest_agent.session import Session

_MARK = "# sandbox host name"


def set_hostname(hostname: str) -> None:
    """Name the machine. Needs CAP_SYS_ADMIN."""
    if socket.gethostname() != hostname:
        socket.sethostname(hostname)


def hosts_with(text: str, hostname: str) -> str:
    """Return the content of /etc/hosts with `hostname` resolving to the machine itself.

    sudo looks the host name up, and would wait for DNS to say that there is none.
    """
    kept = [line for line in text.splitlines() if not line.endswith(_MARK)]
    return "\n".join([*kept, f"127.0.1.1 {hostname} {_MARK}", ""])


def write_hosts(etc: Path, hostname: str) -> None:
    hosts = f"{etc}/hosts"
    with suppress(OSError):
        before = read(hosts)
        after = hosts_with("127.0.0.1 localhost" if before is None else before, hostname)
        if after != before:
            overwrite(hosts, after)


def write_machine_id(etc: Path, run: Path, machine_id: str) -> None:
    """Write the id to /etc/machine-id, or to /run where /etc cannot be written."""
    line = machine_id + "\n"
    for directory in (etc, run):
        try:
            overwrite(f"{directory}/machine-id", line)
        except OSError:
            continue
        return


def write_markers(directory: Path, session: Session) -> None:
    """Write E2B's marker files, which tools read to learn that and where they run."""
    if not os.path.isdir(directory):  # noqa: PTH112 - one call, on the way of every create
        os.makedirs(directory, mode=0o755)  # noqa: PTH103
    markers = {
        ".E2B_SANDBOX": "true",
        ".E2B_SANDBOX_ID": session.sandbox_id,
        ".E2B_TEMPLATE_ID": session.template_id,
    }
    for name, text in markers.items():
        overwrite(f"{directory}/{name}", text)
