from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from guest_agent.errors import HttpError
from guest_agent.files.target import Target
from guest_agent.users import User

SELF = User("self", os.getuid(), os.getgid(), (os.getgid(),), "/")


def test_a_full_disk_is_507(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int, _data: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with Target(str(tmp_path / "f"), SELF, {}) as target:
        monkeypatch.setattr(os, "write", full)
        with pytest.raises(HttpError) as refused:
            target.write(b"x")
        monkeypatch.undo()
    assert refused.value.status == 507


def test_a_name_that_is_too_long_is_400(tmp_path: Path) -> None:
    with pytest.raises(HttpError) as refused:
        Target(str(tmp_path / ("n" * 256)), SELF, {})
    assert refused.value.status == 400
