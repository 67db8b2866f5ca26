"""Lines of the answer to `POST /execute`: one JSON object each, `type` first."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

# Rich representations of a value that have a field of their own; every other MIME type goes to `extra`.
FIELD_OF_MIME_TYPE: Mapping[str, str] = {
    "text/plain": "text",
    "text/html": "html",
    "text/markdown": "markdown",
    "image/svg+xml": "svg",
    "image/png": "png",
    "image/jpeg": "jpeg",
    "application/pdf": "pdf",
    "text/latex": "latex",
    "application/json": "json",
    "application/javascript": "javascript",
    "e2b/data": "data",
    "e2b/chart": "chart",
}


@dataclass(frozen=True, slots=True)
class NumberOfExecutions:
    execution_count: int
    type: ClassVar[str] = "number_of_executions"

    def payload(self) -> dict[str, Any]:
        return {"execution_count": self.execution_count}


@dataclass(frozen=True, slots=True)
class Output:
    """Text that the code wrote to one of its standard streams."""

    type: Literal["stdout", "stderr"]
    text: str
    timestamp: str  # ISO 8601, as the kernel stamped it

    def payload(self) -> dict[str, Any]:
        return {"text": self.text, "timestamp": self.timestamp}


@dataclass(frozen=True, slots=True)
class Result:
    """A value shown by the code, in every representation that the kernel could give."""

    representations: Mapping[str, Any]  # by field name
    extra: Mapping[str, Any]  # by MIME type
    is_main_result: bool
    type: ClassVar[str] = "result"

    @classmethod
    def from_mime_bundle(cls, bundle: Mapping[str, Any], *, is_main_result: bool) -> "Result":
        representations: dict[str, Any] = {}
        extra: dict[str, Any] = {}
        for mime_type, value in bundle.items():
            name = FIELD_OF_MIME_TYPE.get(mime_type)
            if value is None:
                continue
            if name is None:
                extra[mime_type] = value
            else:
                representations[name] = without_quotes(value) if name == "text" else value
        return cls(representations=representations, extra=extra, is_main_result=is_main_result)

    def payload(self) -> dict[str, Any]:
        return {**self.representations, "extra": dict(self.extra), "is_main_result": self.is_main_result}


@dataclass(frozen=True, slots=True)
class ExecutionFailed:
    name: str
    value: str
    traceback: str
    type: ClassVar[str] = "error"

    def payload(self) -> dict[str, Any]:
        return {"name": self.name, "value": self.value, "traceback": self.traceback}


@dataclass(frozen=True, slots=True)
class KeepAlive:
    """Sent into silence: a client that has gone shows only when something is written to it."""

    type: ClassVar[str] = "keepalive"

    def payload(self) -> dict[str, Any]:
        return {}


@dataclass(frozen=True, slots=True)
class EndOfExecution:
    type: ClassVar[str] = "end_of_execution"

    def payload(self) -> dict[str, Any]:
        return {}


Event = NumberOfExecutions | Output | Result | ExecutionFailed | KeepAlive | EndOfExecution


def without_quotes(text: str) -> str:
    """Return the repr of a string without the one pair of quotes that encloses it."""
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    return text


def encode(event: Event) -> bytes:
    """Return the event as a line of the stream, end of line included."""
    line = json.dumps({"type": event.type, **event.payload()}, ensure_ascii=False, separators=(",", ":"))
    # Code may print half of a surrogate pair; it has no UTF-8, and must not end the stream.
    return line.encode("utf-8", "replace") + b"\n"
