"""How programs that read a stranger's bytes are started: no privileges, and a ceiling on everything they could use."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

WORKER_UID = 99_999
"""Owns nothing: below the range of the VMMs, above the users of distributions.

Processes of one user can reach into each other, so those of two images must never run at the same time.
"""

_SIGNALLED_GRACE_S = 1


@dataclass(frozen=True, slots=True)
class Ceiling:
    """Resource limits of one process, enforced by the kernel."""

    address_space_bytes: int
    cpu_s: int
    file_bytes: int
    """Largest file it may write; pipes do not count."""
    tasks: int
    """Processes and threads of its user beyond which it can start no more; 1 means that it cannot fork."""


def confined(argv: Sequence[str], ceiling: Ceiling) -> list[str]:
    """Return an argv that drops privileges, sets the limits and becomes `argv`, keeping its process id.

    Without root there are no privileges to drop, and tasks are not counted: all that the user runs would count.
    """
    limits = [
        "prlimit",
        "--core=0",
        f"--as={ceiling.address_space_bytes}",
        # The soft limit sends SIGXCPU, which tells "too slow" from other deaths; the hard one follows with SIGKILL.
        f"--cpu={ceiling.cpu_s}:{ceiling.cpu_s + _SIGNALLED_GRACE_S}",
        f"--fsize={ceiling.file_bytes}",
    ]
    if os.geteuid() != 0:
        return [*limits, *argv]
    return [
        "setpriv",
        f"--reuid={WORKER_UID}",
        f"--regid={WORKER_UID}",
        "--clear-groups",
        "--bounding-set=-all",
        "--no-new-privs",
        *limits,
        f"--nproc={ceiling.tasks}",
        *argv,
    ]
