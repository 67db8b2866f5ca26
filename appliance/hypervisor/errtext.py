"""What a VMM writes to its standard error, kept for the message of a failure.

A guest can make its VMM complain for ever, and the VMM must outlive whoever reads it: neither a file nor a pipe will
do. A memory file that is sealed against growing takes the first bytes and refuses the rest.
"""

from __future__ import annotations

import fcntl
import os

SIZE_BYTES = 16 * 1024


def create() -> int:
    """Return a descriptor to hand to a process as its standard error. The caller closes its copy."""
    fd = os.memfd_create("vmm-stderr", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.truncate(fd, SIZE_BYTES)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)
    return fd


def read(fd: int) -> str:
    """Return what was written so far."""
    return os.pread(fd, SIZE_BYTES, 0).rstrip(b"\0").decode(errors="replace").strip()
