"""Volumes: file systems of a team that outlive its sandboxes. Each lies on one node; one sandbox at a time has it."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from appliance.domain.errors import InvalidRequest, VolumeNotFound
from appliance.domain.ids import VOLUME_ID, NodeId, TeamId, VolumeId

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")
_MAX_PATH = 1024
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class VolumeState(StrEnum):
    """`creating` and `deleting` are intents: the row says so before the node is asked for anything."""

    CREATING = "creating"
    READY = "ready"
    DELETING = "deleting"


@dataclass(frozen=True, slots=True)
class Volume:
    volume_id: VolumeId
    team_id: TeamId
    name: str
    """Empty once it is being deleted: the name is free for another one."""
    node_id: NodeId
    state: VolumeState
    size_mib: int
    """What fits into it; its image takes no more than what is in it."""
    created_at: datetime


@dataclass(frozen=True, slots=True)
class WantedMount:
    """A volume as somebody asks for it, by its name."""

    name: str
    path: str


@dataclass(frozen=True, slots=True)
class Mount:
    """A volume that a sandbox has, and where."""

    volume_id: VolumeId
    name: str
    path: str


def parse_volume_name(text: str) -> str:
    """Return the name of a volume, or raise InvalidRequest."""
    if not _NAME.fullmatch(text):
        raise InvalidRequest("Invalid volume name: use 1 to 128 of a-z, A-Z, 0-9, _ and -")
    return text


def parse_volume_id(text: str) -> VolumeId:
    """Return the id of a volume, or raise VolumeNotFound: there is none of any other form."""
    if not VOLUME_ID.fullmatch(text):
        raise VolumeNotFound(text[:80])
    return VolumeId(text)


def check_mounts(wanted: Sequence[WantedMount], *, most: int) -> None:
    """Raise InvalidRequest that names whatever is wrong with these mounts by themselves."""
    if len(wanted) > most:
        raise InvalidRequest(f"invalid mounts: a sandbox can have at most {most} volumes, not {len(wanted)}")
    problems: dict[int, str] = {}
    names: set[str] = set()
    paths: set[str] = set()
    for number, mount in enumerate(wanted):
        problem = _problem_of(mount.path)
        if problem is None and mount.path in paths:
            problem = f"path '{mount.path}' is already used"
        elif problem is None and mount.name in names:
            problem = f"volume '{mount.name}' is already mounted"
        if problem is not None:
            problems[number] = problem
        names.add(mount.name)
        paths.add(mount.path)
    if problems:
        raise invalid_mounts(problems)


def invalid_mounts(problems: Mapping[int, str]) -> InvalidRequest:
    """Return the error that tells what is wrong with which mount, as clients of E2B know it."""
    lines = "".join(f"\n\t- volume mount #{number}: {problem}" for number, problem in problems.items())
    return InvalidRequest(f"invalid mounts:{lines}")


def _problem_of(path: str) -> str | None:
    if len(path) > _MAX_PATH or _CONTROL.search(path):
        return f"the path has more than {_MAX_PATH} characters, or control characters"
    if not path.startswith("/"):
        return f"path '{path}' is not absolute"
    # POSIX keeps two slashes at the beginning apart from one.
    clean = posixpath.normpath("/" + path.lstrip("/"))
    if clean != path:
        return f"path '{path}' is not clean; write '{clean}'"
    if path == "/":
        return "a volume cannot take the place of '/'"
    return None
