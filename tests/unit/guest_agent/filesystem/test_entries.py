from __future__ import annotations

import stat

import pytest

from guest_agent.filesystem.entries import permissions, timestamp


@pytest.mark.parametrize(
    ("mode", "text"),
    [
        (stat.S_IFREG | 0o644, "-rw-r--r--"),
        (stat.S_IFREG | 0o4755, "urwxr-xr-x"),
        (stat.S_IFDIR | 0o755, "drwxr-xr-x"),
        (stat.S_IFDIR | 0o1777, "dtrwxrwxrwx"),
        (stat.S_IFDIR | 0o2770, "dgrwxrwx---"),
        (stat.S_IFLNK | 0o777, "Lrwxrwxrwx"),
        (stat.S_IFBLK | 0o660, "Drw-rw----"),
        (stat.S_IFCHR | 0o666, "Dcrw-rw-rw-"),
        (stat.S_IFIFO | 0o600, "prw-------"),
        (stat.S_IFSOCK | 0o000, "S---------"),
    ],
)
def test_permissions_are_printed_as_go_prints_them(mode: int, text: str) -> None:
    assert permissions(mode) == text


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "1970-01-01T00:00:00.000000000Z"),
        (1_700_000_000_000_000_001, "2023-11-14T22:13:20.000000001Z"),
        (-1, "1969-12-31T23:59:59.999999999Z"),
    ],
)
def test_timestamps(nanoseconds: int, text: str) -> None:
    assert timestamp(nanoseconds) == text
