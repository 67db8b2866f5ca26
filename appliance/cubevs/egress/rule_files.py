"""The rules of each sandbox in a file named for the address that its connections come from.

Cubelet writes and removes them with the sandbox's admission; the proxy only reads. A file is replaced atomically, so a
reader sees the former rules or the new ones. They hold secrets: they are on a tmpfs, for their writer and the proxy's
group.
"""

from __future__ import annotations

import os
from ipaddress import AddressValueError, IPv4Address
from pathlib import Path
from typing import Final

import structlog
from pydantic import ValidationError

from appliance.cubevs.egress.rules import SandboxRules

log = structlog.get_logger()

DEFAULT_DIRECTORY: Final = Path("/run/cube/egress")
_SUFFIX: Final = ".json"


def publish(directory: Path, address: IPv4Address, rules: SandboxRules) -> None:
    """Put `rules` in force for connections from `address`. Raises OSError, and leaves the former rules then."""
    path = _path(directory, address)
    # One writer an address: a tap is changed by one task at a time.
    fresh = path.with_suffix(".new")
    try:
        fresh.unlink(missing_ok=True)
        with open(fresh, "x", opener=_unreadable) as file:
            # The directory's group is the proxy's. What is no member of it changes it as root only.
            os.chown(file.fileno(), -1, directory.stat().st_gid)
            os.fchmod(file.fileno(), 0o640)
            file.write(rules.model_dump_json())
        fresh.replace(path)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise


def withdraw(directory: Path, address: IPv4Address) -> None:
    """Let nothing pass from `address`. Absent rules are success."""
    _path(directory, address).unlink(missing_ok=True)


def published(directory: Path) -> set[IPv4Address]:
    """Return the addresses that have rules."""
    found = set()
    for path in directory.glob(f"*{_SUFFIX}"):
        try:
            found.add(IPv4Address(path.stem))
        except AddressValueError:
            continue
    return found


def read(directory: Path, address: IPv4Address) -> SandboxRules | None:
    """Return the rules in force for `address`. None where there are none, or none that can be read."""
    try:
        return SandboxRules.model_validate_json(_path(directory, address).read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        log.error("egress_rules_unreadable", address=str(address), error=str(error))
        return None


class RuleReader:
    """Reads rules again only where their file is another than the last time."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._read: dict[IPv4Address, tuple[_Version, SandboxRules | None]] = {}

    def rules(self, address: IPv4Address) -> SandboxRules | None:
        """Return what `read` would."""
        try:
            status = _path(self._directory, address).stat()
        except OSError:
            self._read.pop(address, None)
            return None
        version = (status.st_ino, status.st_mtime_ns, status.st_size)
        known = self._read.get(address)
        if known is None or known[0] != version:
            # Written between the two calls, the rules read are newer than their version, and are read once more.
            known = self._read[address] = (version, read(self._directory, address))
        return known[1]


_Version = tuple[int, int, int]


def _unreadable(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _path(directory: Path, address: IPv4Address) -> Path:
    return directory / f"{address}{_SUFFIX}"
