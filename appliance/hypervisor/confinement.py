"""What a VMM process may do on the node, as the command that starts it and a number the kernel's OOM killer reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from appliance.hypervisor.base import Confinement

OOM_SCORE_ADJ = 500
"""When memory runs out, a sandbox goes before any service of the node (0) does."""


def confined(argv: Sequence[str], confinement: Confinement | None) -> tuple[str, ...]:
    """Return `argv` run as another user, without any capability and without a way to gain one.

    `setpriv` replaces itself, so the pid stays. It costs 1.5 ms, where a fork of Cubelet that changes its uid
    before exec could not use vfork.
    """
    if confinement is None:
        return tuple(argv)
    return (
        "setpriv",
        f"--reuid={confinement.uid}",
        f"--regid={confinement.gid}",
        "--clear-groups",
        "--no-new-privs",
        "--inh-caps=-all",
        "--bounding-set=-all",
        *argv,
    )


def prefer_for_oom(pid: int) -> None:
    """Make the OOM killer choose `pid` before the node's services. A process that is gone is left to its watcher."""
    try:
        Path(f"/proc/{pid}/oom_score_adj").write_text(str(OOM_SCORE_ADJ))
    except (FileNotFoundError, ProcessLookupError):
        return
