"""Volumes, and which sandbox has which."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from appliance.cubemaster.persistence.tables import volume_attachments, volumes
from appliance.domain.errors import Conflict
from appliance.domain.ids import NodeId, SandboxId, TeamId, VolumeId
from appliance.domain.volume import Volume, VolumeState


@dataclass(frozen=True, slots=True)
class HeldVolume:
    volume: Volume
    sandbox_id: SandboxId | None
    """Which sandbox has it."""


class VolumeRepository:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def add(self, volume: Volume) -> None:
        """Add a volume, or raise Conflict where the team has one of that name."""
        try:
            self._connection.execute(
                insert(volumes),
                {
                    "volume_id": volume.volume_id,
                    "team_id": volume.team_id,
                    "name": volume.name,
                    "node_id": volume.node_id,
                    "state": volume.state,
                    "size_mib": volume.size_mib,
                    "created_at": volume.created_at,
                },
            )
        except IntegrityError as error:
            raise Conflict(f"Volume with name '{volume.name}' already exists") from error

    def find(self, volume_id: str, *, team_id: str | None = None, lock: bool = False) -> HeldVolume | None:
        """Return a volume in whatever state, unless it belongs to another team than `team_id`."""
        statement = _HELD.where(volumes.c.volume_id == volume_id)
        if team_id is not None:
            statement = statement.where(volumes.c.team_id == team_id)
        row = self._connection.execute(statement.with_for_update(of=volumes) if lock else statement).one_or_none()
        return _held(row) if row else None

    def ready(self, *, team_id: str | None) -> list[HeldVolume]:
        """Return the volumes that can be used, oldest first."""
        statement = _HELD.where(volumes.c.state == VolumeState.READY)
        if team_id is not None:
            statement = statement.where(volumes.c.team_id == team_id)
        rows = self._connection.execute(statement.order_by(volumes.c.created_at, volumes.c.volume_id))
        return [_held(row) for row in rows]

    def lock_named(self, names: Collection[str], *, team_id: TeamId) -> Mapping[str, HeldVolume]:
        """Return the team's volumes of these names that can be used, which nobody else changes before this commits."""
        wanted = (
            select(volumes.c.volume_id)
            .where(volumes.c.team_id == team_id, volumes.c.name.in_(names), volumes.c.state == VolumeState.READY)
            # In one order for all: two that want the same ones must not each hold what the other waits for.
            .order_by(volumes.c.volume_id)
            .with_for_update()
        )
        ids = list(self._connection.scalars(wanted))
        held = (_held(row) for row in self._connection.execute(_HELD.where(volumes.c.volume_id.in_(ids))))
        return {one.volume.name: one for one in held}

    def attach(self, volume_ids: Sequence[VolumeId], sandbox_id: SandboxId) -> None:
        """Give free volumes, which this transaction has locked, to a sandbox that it has added."""
        rows = [{"volume_id": one, "sandbox_id": sandbox_id} for one in volume_ids]
        self._connection.execute(insert(volume_attachments), rows)

    def release(self, sandbox_id: SandboxId) -> None:
        """Free the volumes of a sandbox that this transaction ends."""
        self._connection.execute(delete(volume_attachments).where(volume_attachments.c.sandbox_id == sandbox_id))

    def make_ready(self, volume_id: VolumeId) -> bool:
        """Return False where its create was given up meanwhile."""
        result = self._connection.execute(
            update(volumes)
            .where(volumes.c.volume_id == volume_id, volumes.c.state == VolumeState.CREATING)
            .values(state=VolumeState.READY)
        )
        return result.rowcount == 1

    def begin_delete(self, volume_id: VolumeId, *, was: VolumeState) -> bool:
        """Free its name, and let nobody see it any more; return False if it has left the state it was seen in."""
        result = self._connection.execute(
            update(volumes)
            .where(volumes.c.volume_id == volume_id, volumes.c.state == was)
            .values(state=VolumeState.DELETING, name=None)
        )
        return result.rowcount == 1

    def remove(self, volume_id: VolumeId) -> None:
        self._connection.execute(delete(volumes).where(volumes.c.volume_id == volume_id))

    def unfinished(self, *, created_before: datetime) -> list[Volume]:
        """Return those that are being deleted, and those whose create began before that time and has not ended."""
        rows = self._connection.execute(
            select(volumes).where(
                (volumes.c.state == VolumeState.DELETING)
                | ((volumes.c.state == VolumeState.CREATING) & (volumes.c.created_at < created_before))
            )
        )
        return [_volume(row) for row in rows]

    def on_node(self, node_id: NodeId) -> frozenset[VolumeId]:
        """Return all that the node may have, in whatever state."""
        return frozenset(
            VolumeId(one)
            for one in self._connection.scalars(select(volumes.c.volume_id).where(volumes.c.node_id == node_id))
        )


_HELD = select(volumes, volume_attachments.c.sandbox_id).outerjoin(
    volume_attachments, volume_attachments.c.volume_id == volumes.c.volume_id
)


def _held(row: Row[*tuple[Any, ...]]) -> HeldVolume:
    return HeldVolume(_volume(row), SandboxId(row.sandbox_id) if row.sandbox_id else None)


def _volume(row: Row[*tuple[Any, ...]]) -> Volume:
    return Volume(
        volume_id=VolumeId(row.volume_id),
        team_id=TeamId(row.team_id),
        name=row.name or "",
        node_id=NodeId(row.node_id),
        state=VolumeState(row.state),
        size_mib=row.size_mib,
        created_at=row.created_at,
    )
