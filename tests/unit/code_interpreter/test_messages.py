from typing import Any

import pytest

from code_interpreter.events import Event, ExecutionFailed, NumberOfExecutions, Output, Result
from code_interpreter.messages import Progress, execute_request, kernel_was_lost, message_id, parent_id
from tests.unit.code_interpreter.jupyter_messages import BUSY, ERROR, IDLE, INPUT, OK_REPLY, message

FAILED = ExecutionFailed("ValueError", "bad", "one\ntwo")


def follow(*messages: dict[str, Any]) -> tuple[list[Event], bool]:
    progress = Progress()
    events = [event for each in messages for event in progress.feed(each)]
    return events, progress.finished


def test_what_a_cell_does_becomes_events_in_order() -> None:
    events, finished = follow(
        BUSY,
        INPUT,
        message("stream", name="stdout", text="out"),
        message("stream", name="stderr", text="err"),
        message("display_data", data={"text/plain": "1"}, metadata={}),
        message("execute_result", data={"text/plain": "2"}, execution_count=7, metadata={}),
        OK_REPLY,
        IDLE,
    )
    assert events == [
        NumberOfExecutions(7),
        Output("stdout", "out", "2026-01-01T00:00:00Z"),
        Output("stderr", "err", "2026-01-01T00:00:00Z"),
        Result({"text": "1"}, {}, is_main_result=False),
        Result({"text": "2"}, {}, is_main_result=True),
    ]
    assert finished


def test_an_accepted_request_is_over_when_idle_whether_or_not_the_reply_has_come() -> None:
    assert follow(BUSY, INPUT, OK_REPLY)[1] is False
    assert follow(BUSY, INPUT, IDLE)[1] is True


def test_a_request_that_was_not_accepted_is_over_with_both_reply_and_idle() -> None:
    assert follow(BUSY, IDLE)[1] is False
    assert follow(BUSY, OK_REPLY)[1] is False
    assert follow(BUSY, IDLE, OK_REPLY)[1] is True
    assert follow(OK_REPLY, BUSY, IDLE)[1] is True


@pytest.mark.parametrize("reply_first", [True, False])
def test_a_failure_is_told_once_and_in_its_place(reply_first: bool) -> None:
    reply = message("execute_reply", status="error", **ERROR)
    told = [BUSY, INPUT, message("error", **ERROR)]
    events, finished = follow(*([reply, *told, IDLE] if reply_first else [*told, reply, IDLE]))
    assert events == [NumberOfExecutions(7), FAILED]
    assert finished


def test_a_failure_that_only_the_reply_tells_is_not_lost() -> None:
    reply = message("execute_reply", status="error", **ERROR)
    assert follow(BUSY, IDLE, reply) == ([FAILED], True)
    assert follow(BUSY, INPUT, reply, IDLE) == ([NumberOfExecutions(7), FAILED], True)


@pytest.mark.parametrize("status", ["abort", "aborted"])
def test_an_aborted_request_fails(status: str) -> None:
    events, finished = follow(BUSY, message("execute_reply", status=status), IDLE)
    assert [event.name for event in events if isinstance(event, ExecutionFailed)] == ["ExecutionAborted"]
    assert finished


def test_silence_after_the_reply_is_the_end() -> None:
    progress = Progress()
    progress.feed(INPUT)
    assert (list(progress.fall_silent()), progress.finished) == ([], False)
    progress.feed(message("execute_reply", status="error", **ERROR))
    assert (list(progress.fall_silent()), progress.finished) == ([FAILED], True)


def test_messages_of_no_interest_are_passed_over() -> None:
    assert follow(message("comm_open", data={}), message("update_display_data", data={}))[0] == []


@pytest.mark.parametrize(("state", "lost"), [("restarting", True), ("dead", True), ("idle", False)])
def test_the_end_of_a_kernel_shows_in_its_status(state: str, lost: bool) -> None:
    assert kernel_was_lost(message("status", execution_state=state)) is lost


def test_parent_of_a_message() -> None:
    assert parent_id(message("stream")) == "of-request"
    assert parent_id({"parent_header": {}}) is None
    assert parent_id({"parent_header": None}) is None


def test_silent_requests_count_no_execution_and_failures_abort_nothing() -> None:
    loud, silent = execute_request("1"), execute_request("1", silent=True)
    assert loud["content"]["store_history"] is True
    assert silent["content"]["silent"] is True
    assert silent["content"]["store_history"] is False
    assert loud["content"]["stop_on_error"] is False
    assert message_id(loud) != message_id(silent)
