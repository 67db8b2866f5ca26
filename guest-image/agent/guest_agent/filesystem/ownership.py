"""Making directories on behalf of a user. The agent is root; what it makes must not stay root's."""

from __future__ import annotations

import os

from guest_agent.users import User


def make_directories(path: str, owner: User) -> None:
    """Create `path` and the parents it lacks, mode 0755, each owned by `owner`. Existing ones are left as they are.

    Raises NotADirectoryError where a file is in the way.
    """
    missing = []
    while not os.path.isdir(path):  # noqa: PTH112 - plain strings on this path
        if os.path.lexists(path):
            raise NotADirectoryError(20, "path is a file, not a directory", path)
        missing.append(path)
        path = path.rpartition("/")[0] or "/"
    for directory in reversed(missing):
        os.mkdir(directory, 0o755)  # noqa: PTH102
        os.chown(directory, owner.uid, owner.gid)
