"""What E2B's volume content API answers when something fails: a status, and a code that is text."""

from __future__ import annotations

import errno

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp

from guest_agent.connect import Endpoint

_ANSWERS = {
    errno.ENOENT: (404, "path_not_found", "Path {path} not found"),
    errno.EEXIST: (409, "path_already_exists", "Path {path} already exists"),
    errno.EISDIR: (409, "path_already_exists", "Path {path} is a directory"),
    errno.ENOTEMPTY: (409, "path_already_exists", "Path {path} is a directory"),
    errno.ENOTDIR: (400, "invalid_request", "a component of the path {path} is a file, but must be a directory"),
    errno.EXDEV: (400, "invalid_request", "the path {path} leads out of the volume"),
    errno.ELOOP: (400, "invalid_request", "the path {path} has too many links"),
    errno.ENAMETOOLONG: (400, "invalid_request", "the path {path} is too long"),
    errno.ENXIO: (400, "invalid_request", "{path} is not a file"),
    errno.ENOSPC: (507, "no_space", "there is no room left on the volume"),
    errno.EDQUOT: (507, "no_space", "there is no room left on the volume"),
}


class VolumeError(Exception):
    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


def invalid(message: str) -> VolumeError:
    return VolumeError(400, "invalid_request", message)


def not_found(path: str) -> VolumeError:
    return VolumeError(404, "path_not_found", f"Path {path} not found")


def already_exists(path: str) -> VolumeError:
    return VolumeError(409, "path_already_exists", f"Path {path} already exists")


def in_volume(endpoint: Endpoint) -> Endpoint:
    """Answer failures of `endpoint` in the shape that clients of the content API parse."""

    async def answered(request: Request) -> ASGIApp:
        try:
            return await endpoint(request)
        except VolumeError as error:
            failure = error
        except OSError as error:
            failure = _translated(error, request.query_params.get("path", ""), reads=request.method in ("GET", "HEAD"))
        return JSONResponse({"code": failure.code, "message": failure.message}, failure.status)

    return answered


def _translated(error: OSError, path: str, *, reads: bool) -> VolumeError:
    number = error.errno or 0
    # Below a file there is nothing to be read; but it is in the way of what is to be made there.
    if reads and number == errno.ENOTDIR:
        number = errno.ENOENT
    if number not in _ANSWERS:
        return VolumeError(500, "internal", f"{path}: {error.strerror}")
    status, code, message = _ANSWERS[number]
    return VolumeError(status, code, message.format(path=path))
