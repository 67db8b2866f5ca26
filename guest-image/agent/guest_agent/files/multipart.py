"""multipart/form-data, streamed: each `file` part goes straight into its target."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol

from python_multipart import MultipartParser
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import parse_options_header

from guest_agent.errors import HttpError

PART_NAME = "file"


class Sink(Protocol):
    """Receives one part's content."""

    def write(self, data: bytes) -> None: ...

    def close(self) -> None: ...


OpenPart = Callable[[str], Sink]
"""Called with the file name of each part named `file`, directories and all."""


class _Parts:
    """The parser's callbacks: gathers a part's headers, then hands its data to the sink."""

    def __init__(self, open_part: OpenPart) -> None:
        self._open_part = open_part
        self._name = bytearray()
        self._value = bytearray()
        self._disposition = b""
        self._sink: Sink | None = None
        self.complete = False

    def on_part_begin(self) -> None:
        self._disposition = b""

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def on_header_end(self) -> None:
        if self._name.lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._name.clear()
        self._value.clear()

    def on_headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        if options.get(b"name") == PART_NAME.encode():
            name = options.get(b"filename", b"").decode("utf-8", "surrogateescape")
            self._sink = self._open_part(name)

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._sink is not None:
            self._sink.write(data[start:end])

    def on_part_end(self) -> None:
        self.close()

    def on_end(self) -> None:
        self.complete = True

    def close(self) -> None:
        sink, self._sink = self._sink, None
        if sink is not None:
            sink.close()


async def receive_parts(body: AsyncIterator[bytes], content_type: str, open_part: OpenPart) -> None:
    """Write the parts of `body` into the sinks that `open_part` returns. Raise HttpError 400 for a malformed body."""
    _, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if not boundary:
        raise HttpError(400, "multipart body without a boundary")
    parts = _Parts(open_part)
    callbacks: Any = {name: getattr(parts, name) for name in _CALLBACKS}
    parser = MultipartParser(boundary, callbacks)
    try:
        async for chunk in body:
            parser.write(chunk)
    except MultipartParseError as error:
        raise HttpError(400, f"malformed multipart body: {error}") from error
    finally:
        parts.close()
    if not parts.complete:
        raise HttpError(400, "the multipart body is not complete")


_CALLBACKS = (
    "on_part_begin",
    "on_part_data",
    "on_part_end",
    "on_header_field",
    "on_header_value",
    "on_header_end",
    "on_headers_finished",
    "on_end",
)
