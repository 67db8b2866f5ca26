"""Volumes of a new sandbox: found by name, free, and all on the one node where it then must go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from appliance.contracts.node_volumes import MAX_VOLUMES
from appliance.cubemaster.persistence.unit_of_work import UnitOfWork
from appliance.cubemaster.persistence.volumes import HeldVolume
from appliance.domain.errors import InvalidRequest, VolumeInUse
from appliance.domain.ids import NodeId, SandboxId, TeamId
from appliance.domain.volume import Mount, WantedMount, check_mounts, invalid_mounts


@dataclass(frozen=True, slots=True)
class FoundMounts:
    mounts: tuple[Mount, ...]
    node_id: NodeId
    held: tuple[HeldVolume, ...]


def find_mounts(uow: UnitOfWork, wanted: Sequence[WantedMount], *, team_id: TeamId) -> FoundMounts:
    """Return the volumes that are asked for, at least one, locked until this transaction ends.

    Raises InvalidRequest where the team has no such volume, or they lie on different nodes. The team is locked.
    """
    check_mounts(wanted, most=MAX_VOLUMES)
    named = uow.volumes.lock_named({one.name for one in wanted}, team_id=team_id)
    missing = {n: f"volume '{one.name}' not found" for n, one in enumerate(wanted) if one.name not in named}
    if missing:
        raise invalid_mounts(missing)
    held = tuple(named[one.name] for one in wanted)
    if len({one.volume.node_id for one in held}) > 1:
        where = ", ".join(f"'{one.volume.name}' on node '{one.volume.node_id}'" for one in held)
        raise InvalidRequest(f"invalid mounts: a sandbox can only have volumes of one node, and these are {where}")
    mounts = tuple(Mount(named[one.name].volume.volume_id, one.name, one.path) for one in wanted)
    return FoundMounts(mounts, held[0].volume.node_id, held)


def attach(uow: UnitOfWork, found: FoundMounts, sandbox_id: SandboxId) -> None:
    """Give them to a sandbox that this transaction has added, or raise VolumeInUse."""
    for one in found.held:
        if one.sandbox_id is not None:
            raise VolumeInUse(one.volume.name, one.sandbox_id)
    uow.volumes.attach([one.volume_id for one in found.mounts], sandbox_id)
