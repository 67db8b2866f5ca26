"""GET /files: one file's content."""

from __future__ import annotations

import asyncio
import os
import stat
import zlib
from collections.abc import Iterator
from email.utils import formatdate, parsedate_to_datetime
from mimetypes import MimeTypes
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from guest_agent.bodies import disconnected
from guest_agent.context import Context
from guest_agent.errors import HttpError
from guest_agent.files.encodings import response_coding
from guest_agent.files.ranges import ByteRange, RangeNotSatisfiable, parse_range

_CHUNK_BYTES = 256 * 1024
_SIZELESS_LIMIT_BYTES = 16 * 1024 * 1024
# Python's own table alone: the image's /etc/mime.types is not ours to depend on.
_types = MimeTypes()


class Downloads:
    """Serves files as root, like E2B's agent: the caller has proved to own the sandbox."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def endpoint(self, request: Request) -> ASGIApp:
        query = request.query_params
        coding = response_coding(request.headers.get("accept-encoding"))
        path = self._context.path(query.get("path", ""), self._context.user(query.get("username") or None))
        descriptor = _open(path)
        try:
            return _respond(request, path, descriptor, coding)
        except BaseException:
            os.close(descriptor)
            raise


def _open(path: str) -> int:
    """Return a descriptor of the regular file at `path`, or raise HttpError."""
    try:
        # Without O_NONBLOCK, opening a named pipe would stop the agent.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        raise HttpError(404, f"path '{path}' does not exist") from error
    except OSError as error:
        raise HttpError(500, f"error opening file '{path}': {error.strerror}") from error
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return descriptor
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise HttpError(400, f"path '{path}' is a directory")
    raise HttpError(400, f"path '{path}' is not a regular file")


def _respond(request: Request, path: str, descriptor: int, coding: str) -> ASGIApp:
    """Return the response, which closes `descriptor` when it has been sent."""
    status = os.fstat(descriptor)
    headers = {
        "Content-Type": content_type(path),
        "Content-Disposition": content_disposition(path),
        "Last-Modified": formatdate(status.st_mtime, usegmt=True),
        "Vary": "Accept-Encoding",
    }
    if _not_modified(request, int(status.st_mtime)):
        os.close(descriptor)
        return Response(status_code=304, headers=headers)
    if status.st_size == 0:
        # Files of /proc and /sys have content but no size.
        content = _read_sizeless(descriptor)
        os.close(descriptor)
        return Response(content, headers=headers)
    if coding == "gzip":
        return FileResponse(200, {**headers, "Content-Encoding": "gzip"}, _gzipped(descriptor), descriptor)
    headers["Accept-Ranges"] = "bytes"
    try:
        wanted = parse_range(_range_header(request, headers["Last-Modified"]), status.st_size)
    except RangeNotSatisfiable:
        os.close(descriptor)
        return Response(status_code=416, headers={**headers, "Content-Range": f"bytes */{status.st_size}"})
    if wanted is not None:
        headers["Content-Range"] = wanted.content_range(status.st_size)
    sent = wanted or ByteRange(0, status.st_size)
    headers["Content-Length"] = str(sent.end - sent.start)
    return FileResponse(206 if wanted else 200, headers, pieces_of(descriptor, sent), descriptor)


def _range_header(request: Request, last_modified: str) -> str | None:
    """Return the Range header, unless it was meant for another version of the file."""
    if request.headers.get("if-range", last_modified) != last_modified:
        return None
    return request.headers.get("range")


class FileResponse:
    """Sends pieces of an open file, then closes it."""

    def __init__(self, status: int, headers: dict[str, str], pieces: Iterator[bytes], descriptor: int) -> None:
        self._status = status
        self._headers = headers
        self._pieces = pieces
        self._descriptor = descriptor

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in self._headers.items()]
            await send({"type": "http.response.start", "status": self._status, "headers": headers})
            if scope["method"] != "HEAD" and not await self._send_pieces(receive, send):
                return
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            os.close(self._descriptor)

    async def _send_pieces(self, receive: Receive, send: Send) -> bool:
        """Return whether the client was there until the end."""
        leaving = asyncio.ensure_future(disconnected(receive))
        try:
            for piece in self._pieces:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
                # To a client that is gone, sending returns at once: without a turn for the loop nobody would notice
                # before the last of a large file was read.
                await asyncio.sleep(0)
                if leaving.done():
                    return False
            return True
        finally:
            leaving.cancel()
            await asyncio.gather(leaving, return_exceptions=True)


def pieces_of(descriptor: int, wanted: ByteRange) -> Iterator[bytes]:
    offset = wanted.start
    while offset < wanted.end:
        piece = os.pread(descriptor, min(_CHUNK_BYTES, wanted.end - offset), offset)
        if not piece:
            # The file shrank: the promised length cannot be met, and ending the connection early says so.
            return
        offset += len(piece)
        yield piece


def _gzipped(descriptor: int) -> Iterator[bytes]:
    deflater = zlib.compressobj(level=1, wbits=31)
    while piece := os.read(descriptor, _CHUNK_BYTES):
        if packed := deflater.compress(piece):
            yield packed
    yield deflater.flush()


def _read_sizeless(descriptor: int) -> bytes:
    content = bytearray()
    try:
        while len(content) < _SIZELESS_LIMIT_BYTES and (piece := os.read(descriptor, _CHUNK_BYTES)):
            content += piece
    except OSError as error:
        raise HttpError(500, f"error reading file: {error.strerror}") from error
    return bytes(content)


def _not_modified(request: Request, modified_s: int) -> bool:
    since = request.headers.get("if-modified-since")
    if since is None or "if-none-match" in request.headers:
        return False
    try:
        return modified_s <= parsedate_to_datetime(since).timestamp()
    except ValueError:
        return False


def content_type(path: str) -> str:
    """Return the media type the name suggests."""
    guessed, coding = _types.guess_type(path.rpartition("/")[2], strict=False)
    if guessed is None or coding is not None:
        return "application/octet-stream"
    return f"{guessed}; charset=utf-8" if guessed.startswith("text/") else guessed


def content_disposition(path: str) -> str:
    name = path.rpartition("/")[2]
    if name.isascii() and name.isprintable() and not set(name) & set(' "\\;'):
        return f"inline; filename={name}"
    return f"inline; filename*=utf-8''{quote(name, safe='', errors='surrogateescape')}"
