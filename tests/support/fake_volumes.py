"""Volumes of the fake node, in memory: `contracts/node_volumes.py`, and E2B's content API as a guest would serve it."""

from __future__ import annotations

import asyncio
import posixpath
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.requests import ClientDisconnect

from appliance.contracts.node import NodeSandbox, NodeSandboxState
from appliance.contracts.node_volumes import NewNodeVolume, NodeVolume, NodeVolumeMount
from appliance.domain.errors import Conflict, CubeError, VolumeInUse, VolumeNotFound

_PIECE = 64 * 1024


@dataclass
class FakeEntry:
    path: str
    content: bytes | None
    """None: a directory."""
    uid: int = 0
    gid: int = 0
    mode: int = 0o644
    at: datetime = field(default_factory=lambda: datetime.now(UTC), init=False)

    def stat(self) -> dict[str, Any]:
        at = self.at.isoformat()
        return {
            "name": posixpath.basename(self.path) or "/",
            "type": "directory" if self.content is None else "file",
            "path": self.path,
            "size": len(self.content or b""),
            "mode": self.mode,
            "uid": self.uid,
            "gid": self.gid,
            "atime": at,
            "mtime": at,
            "ctime": at,
        }


@dataclass
class FakeVolume:
    size_mib: int
    entries: dict[str, FakeEntry] = field(default_factory=lambda: {"/": FakeEntry("/", None, mode=0o755)})


@dataclass
class FakeVolumes:
    holder: Callable[[str], NodeSandbox | None]
    """Which sandbox of the node has a volume."""
    made: dict[str, FakeVolume] = field(default_factory=dict)
    deleted: list[str] = field(default_factory=list)
    fail_make: CubeError | None = None
    fail_delete: CubeError | None = None
    received: int = 0
    """Bytes of uploads so far."""
    cut_off: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once an upload or a download has ended too early."""
    answer: Callable[[], Response] | None = None
    """Answers every call to content, in place of a volume."""

    def take(self, mounts: tuple[NodeVolumeMount, ...], sandbox_id: str) -> None:
        """Let a new sandbox have volumes, or raise as the node does."""
        for mount in mounts:
            if mount.volume_id not in self.made:
                raise VolumeNotFound(mount.volume_id)
            holder = self.holder(mount.volume_id)
            if holder is not None and holder.sandbox_id != sandbox_id:
                raise VolumeInUse(mount.volume_id, holder.sandbox_id)

    def router(self) -> APIRouter:
        router = APIRouter(prefix="/v1/volumes")

        @router.put("/{volume_id}", status_code=204)
        async def make(volume_id: str, new: NewNodeVolume) -> Response:
            if self.fail_make:
                raise self.fail_make
            self.made.setdefault(volume_id, FakeVolume(new.size_mib))
            return Response(status_code=204)

        @router.get("")
        async def list_all() -> list[NodeVolume]:
            holders = {one: self.holder(one) for one in self.made}
            return [
                NodeVolume(
                    volume_id=volume_id,
                    size_mib=volume.size_mib,
                    used_mib=1,
                    sandbox_id=holder.sandbox_id if (holder := holders[volume_id]) else None,
                )
                for volume_id, volume in self.made.items()
            ]

        @router.delete("/{volume_id}", status_code=204)
        async def delete(volume_id: str) -> Response:
            if self.fail_delete:
                raise self.fail_delete
            holder = self.holder(volume_id)
            if holder is not None:
                raise VolumeInUse(volume_id, holder.sandbox_id)
            self.deleted.append(volume_id)
            self.made.pop(volume_id, None)
            return Response(status_code=204)

        @router.api_route("/{volume_id}/content/{kind}", methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
        async def content(volume_id: str, kind: str, request: Request) -> Response:
            if volume_id not in self.made:
                raise VolumeNotFound(volume_id)
            holder = self.holder(volume_id)
            if holder is not None and holder.state is NodeSandboxState.PAUSED:
                raise Conflict(f"a paused sandbox, {holder.sandbox_id}, has the volume; resume it first")
            if self.answer is not None:
                return self.answer()
            path = posixpath.normpath("/" + request.query_params["path"].lstrip("/"))
            return await self._serve(self.made[volume_id].entries, kind, path, request)

        return router

    async def _serve(self, entries: dict[str, FakeEntry], kind: str, path: str, request: Request) -> Response:
        query = request.query_params
        entry = entries.get(path)
        match request.method, kind:
            case "PUT", "file":
                if entry is not None and (entry.content is None or query.get("force") != "true"):
                    return _error(409, "already_exists", f"path {path} is there already")
                if entries.get(posixpath.dirname(path)) is None:
                    return _error(404, "not_found", f"path {path} not found")
                made = FakeEntry(path, await self._received(request), **_owner(query))
                entries[path] = made
                return JSONResponse(made.stat(), status_code=201)
            case "POST", "dir":
                if entry is not None and query.get("force") != "true":
                    return _error(409, "already_exists", f"path {path} is there already")
                parents = [one for one in _parents(path) if one not in entries]
                if parents and query.get("force") != "true":
                    return _error(404, "not_found", f"path {path} not found")
                for one in (*parents, path):
                    entries.setdefault(one, FakeEntry(one, None, **{"mode": 0o755, **_owner(query)}))
                return JSONResponse(entries[path].stat(), status_code=201)
        if entry is None:
            return _error(404, "not_found", f"path {path} not found")
        match request.method, kind:
            case "GET", "path":
                return JSONResponse(entry.stat())
            case "PATCH", "path":
                for name, value in (await request.json()).items():
                    setattr(entry, name, value)
                return JSONResponse(entry.stat())
            case "DELETE", "path":
                for one in [one for one in entries if one == path or one.startswith(path.rstrip("/") + "/")]:
                    del entries[one]
                return Response(status_code=204)
            case "GET", "dir" if entry.content is None:
                inside = path.rstrip("/") + "/"
                depth = int(query.get("depth", "1"))
                below = [one for at, one in entries.items() if at != path and at.startswith(inside)]
                return JSONResponse([one.stat() for one in below if one.path[len(inside) :].count("/") < depth])
            case "GET", "file" if entry.content is not None:
                pieces = self._sent(entry.content, request)
                return StreamingResponse(pieces, headers={"Content-Length": str(len(entry.content))})
        return _error(400, "bad_request", f"{path} is no {kind}")

    async def _received(self, request: Request) -> bytes:
        content = bytearray()
        try:
            async for piece in request.stream():
                self.received += len(piece)
                content += piece
        except ClientDisconnect:
            self.cut_off.set()
            raise
        return bytes(content)

    async def _sent(self, content: bytes, request: Request) -> AsyncIterator[bytes]:
        for begin in range(0, len(content), _PIECE):
            if await request.is_disconnected():
                self.cut_off.set()
                return
            yield content[begin : begin + _PIECE]


def _owner(query: Any) -> dict[str, int]:
    return {name: int(query[name]) for name in ("uid", "gid", "mode") if name in query}


def _parents(path: str) -> list[str]:
    """Return the directories above a path, outermost first."""
    parts = path.strip("/").split("/")[:-1]
    return ["/" + "/".join(parts[: n + 1]) for n in range(len(parts))]


def _error(status: int, code: str, message: str) -> Response:
    return JSONResponse({"code": code, "message": message}, status_code=status)
