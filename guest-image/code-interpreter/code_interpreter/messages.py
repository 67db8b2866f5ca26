"""Jupyter messages: the ones we send, and what the ones we get mean for an execution."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import uuid4

from code_interpreter.events import Event, ExecutionFailed, NumberOfExecutions, Output, Result

Message = Mapping[str, Any]
Channel = Literal["shell", "control"]


def execute_request(code: str, *, silent: bool = False) -> dict[str, Any]:
    """Return a request to run `code`. A silent one counts no execution and shows no result."""
    content = {
        "code": code,
        "silent": silent,
        "store_history": not silent,
        "user_expressions": {},
        "allow_stdin": False,
        # A failed cell must not make the kernel drop the request behind it, which resets the environment.
        "stop_on_error": False,
    }
    return _request("execute_request", "shell", content)


def kernel_info_request(channel: Channel) -> dict[str, Any]:
    """Return a request that any kernel answers and that changes nothing in it."""
    return _request("kernel_info_request", channel, {})


def _request(kind: str, channel: Channel, content: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "channel": channel,
        "header": {
            "msg_id": uuid4().hex,
            "msg_type": kind,
            "username": "code-interpreter",
            "session": "code-interpreter",
            "date": datetime.now(UTC).isoformat(),
            "version": "5.3",
        },
        "parent_header": {},
        "metadata": {},
        "content": content,
        "buffers": [],
    }


def message_id(request: Message) -> str:
    return str(request["header"]["msg_id"])


def parent_id(message: Message) -> str | None:
    """Return the id of the request that `message` belongs to; some messages belong to none."""
    return (message.get("parent_header") or {}).get("msg_id")


def kernel_was_lost(message: Message) -> bool:
    """Tell whether the Jupyter server says that the kernel died, whether or not it starts another."""
    return message.get("msg_type") == "status" and message["content"].get("execution_state") in (
        "restarting",
        "dead",
    )


def tells_idle(message: Message) -> bool:
    """Tell whether the kernel says that it is through with the request that `message` belongs to."""
    return bool(message["msg_type"] == "status" and message["content"]["execution_state"] == "idle")


@dataclass(slots=True)
class Progress:
    """Follows the messages of one execute request and tells when it is over.

    Output and the reply come on different channels and in any order. Everything to show comes before `idle`,
    so a request that the kernel took up ends there; one that it refused has no more than a reply. A failure
    is told as output and again in the reply, which counts only if there was no other word of it.

    The reply is sure to come, output is not: a kernel may drop what comes too fast. So a long silence after the
    reply ends the request too.
    """

    _accepted: bool = field(default=False, init=False)
    _idle: bool = field(default=False, init=False)
    _reply: Mapping[str, Any] | None = field(default=None, init=False)
    _failed: bool = field(default=False, init=False)

    @property
    def finished(self) -> bool:
        return self._idle and (self._accepted or self._reply is not None)

    def feed(self, message: Message) -> Sequence[Event]:
        """Return what `message` has for the client, in order."""
        content = message["content"]
        events: Sequence[Event] = ()
        match message["msg_type"]:
            case "execute_input":
                self._accepted = True
                events = [NumberOfExecutions(int(content["execution_count"]))]
            case "stream":
                stream: Literal["stdout", "stderr"] = "stderr" if content["name"] == "stderr" else "stdout"
                events = [Output(stream, content["text"], str(message["header"]["date"]))]
            case "display_data" | "execute_result" as kind:
                events = [Result.from_mime_bundle(content["data"], is_main_result=kind == "execute_result")]
            case "error":
                self._failed = True
                events = [_failure(content)]
            case "execute_reply":
                self._reply = content
            case "status":
                self._idle = self._idle or tells_idle(message)
        if self.finished and not self._failed:
            return [*events, *self._failure_in_reply()]
        return events

    def fall_silent(self) -> Sequence[Event]:
        """Take note that nothing has come for long; return what has not been told yet if that is the end."""
        if self._reply is None:
            return ()
        self._idle = True
        return () if self._failed else self._failure_in_reply()

    def _failure_in_reply(self) -> Sequence[Event]:
        match None if self._reply is None else self._reply["status"]:
            case "error":
                assert self._reply is not None
                return [_failure(self._reply)]
            case "abort" | "aborted":
                return [ExecutionFailed("ExecutionAborted", "Execution was aborted", "")]
        return []


def _failure(content: Mapping[str, Any]) -> ExecutionFailed:
    return ExecutionFailed(
        name=str(content.get("ename", "")),
        value=str(content.get("evalue", "")),
        traceback="\n".join(content.get("traceback", ())),
    )
