"""Exit codes, which scripts rely on, and how an error becomes one."""

from __future__ import annotations

import errno
from enum import IntEnum

from appliance.domain.errors import CubeError, DeadlineExceeded, InvalidRequest, NotFound, TemplateInUse, Unavailable

HELP = """\
Exit codes: 0 done; 1 it failed, or the build ended in ERROR; 2 wrong usage; 3 not finished in time; \
4 no such object; 5 CubeMaster does not answer, or has nothing to offer now."""


class Exit(IntEnum):
    DONE = 0
    FAILED = 1
    USAGE = 2
    TIMEOUT = 3
    NOT_FOUND = 4
    UNAVAILABLE = 5


_CODES: tuple[tuple[type[CubeError], Exit], ...] = (
    (TemplateInUse, Exit.FAILED),
    (InvalidRequest, Exit.USAGE),
    (NotFound, Exit.NOT_FOUND),
    (DeadlineExceeded, Exit.TIMEOUT),
    (Unavailable, Exit.UNAVAILABLE),
    (CubeError, Exit.FAILED),
)


def exit_code(error: CubeError) -> Exit:
    return next(code for kind, code in _CODES if isinstance(error, kind))


def explain(error: CubeError, *, endpoint: str) -> str:
    """Return what went wrong and what to do. Errors of the service say so themselves; those of reaching it do not."""
    cause = error.__cause__
    if not isinstance(cause, OSError):
        return error.message
    if cause.errno in (errno.EACCES, errno.EPERM):
        return f"no permission to use {endpoint}; run this as root or as a member of group cube"
    if cause.errno in (errno.ENOENT, errno.ECONNREFUSED):
        return f"CubeMaster does not run behind {endpoint}; see `systemctl status cube-master`, or pass --endpoint"
    return error.message
