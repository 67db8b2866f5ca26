"""Volumes on a node: part of Cubelet's interface (`contracts/node.py`), called by CubeMaster only.

A volume is a disk image with a file system, which outlives sandboxes. It lies on one node, and at most one machine has
it at a time: a sandbox of `CreateSandbox.volumes`, from its create until it is deleted, also while it is paused; or a
machine of the node's own that serves its content. No host ever mounts one: what is in it is its guests'.

PUT    /v1/volumes/{volume_id}                 204   NewNodeVolume; the same id again is the same volume, as it is
GET    /v1/volumes                             200   [NodeVolume]
DELETE /v1/volumes/{volume_id}                 204   also when it is gone; VolumeInUse while a sandbox has it
*      /v1/volumes/{volume_id}/content/{kind}?path=...
                                               E2B's content API (`kind`: `path`, `dir` or `file`), streamed both ways,
                                               answered by the guest that has the volume, with its statuses and bodies;
                                               VolumeNotFound; Conflict while a paused sandbox has it

A sandbox that has volumes can be paused and resumed, but neither snapshot nor forked (Conflict): two machines would
have the same disk.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

MAX_VOLUMES = 2
"""Of one sandbox: every machine has as many slots for disks that are not there yet."""


class _Wire(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class NewNodeVolume(_Wire):
    size_mib: int = Field(ge=16)


class NodeVolume(_Wire):
    volume_id: str
    size_mib: int
    used_mib: int
    """What its image takes on the node's disk."""
    sandbox_id: str | None = None
    """Which sandbox has it."""


class NodeVolumeMount(_Wire):
    """A volume in a sandbox, made before with its PUT."""

    volume_id: str
    path: str
    """Absolute and clean, and unique in its sandbox."""
