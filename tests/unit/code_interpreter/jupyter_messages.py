"""Messages as a kernel sends them, for tests."""

from typing import Any


def message(message_type: str, **content: Any) -> dict[str, Any]:
    return {
        "channel": "shell" if message_type.endswith("_reply") else "iopub",
        "msg_type": message_type,
        "header": {"msg_id": "of-kernel", "date": "2026-01-01T00:00:00Z"},
        "parent_header": {"msg_id": "of-request"},
        "content": content,
    }


BUSY = message("status", execution_state="busy")
IDLE = message("status", execution_state="idle")
INPUT = message("execute_input", code="1", execution_count=7)
OK_REPLY = message("execute_reply", status="ok")
ERROR = {"ename": "ValueError", "evalue": "bad", "traceback": ["one", "two"]}
