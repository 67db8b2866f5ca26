import json

import pytest

from code_interpreter.events import (
    EndOfExecution,
    ExecutionFailed,
    KeepAlive,
    NumberOfExecutions,
    Output,
    Result,
    encode,
    without_quotes,
)


def test_a_line_begins_with_the_type_and_ends_with_a_line_end() -> None:
    assert encode(NumberOfExecutions(3)) == b'{"type":"number_of_executions","execution_count":3}\n'
    assert encode(EndOfExecution()) == b'{"type":"end_of_execution"}\n'
    assert encode(KeepAlive()) == b'{"type":"keepalive"}\n'


def test_output_has_its_text_and_time() -> None:
    assert json.loads(encode(Output("stderr", "né\n", "2026-01-01T00:00:00Z"))) == {
        "type": "stderr",
        "text": "né\n",
        "timestamp": "2026-01-01T00:00:00Z",
    }


def test_failure_has_all_three_fields_even_if_empty() -> None:
    assert json.loads(encode(ExecutionFailed("E", "", ""))) == {
        "type": "error",
        "name": "E",
        "value": "",
        "traceback": "",
    }


def test_half_a_surrogate_pair_does_not_end_the_stream() -> None:
    assert json.loads(encode(Output("stdout", "\ud83d", "now")))["text"] == "?"


def test_each_mime_type_has_its_field_and_unknown_ones_are_extra() -> None:
    bundle = {
        "text/plain": "'a'",
        "text/html": "<a>",
        "text/markdown": "*a*",
        "image/svg+xml": "<svg>",
        "image/png": "cG5n",
        "image/jpeg": "anBn",
        "application/pdf": "cGRm",
        "text/latex": "$a$",
        "application/json": {"a": 1},
        "application/javascript": "a()",
        "e2b/data": {"a": [1]},
        "e2b/chart": {"type": "line"},
        "application/vnd.mine": 5,
    }
    assert json.loads(encode(Result.from_mime_bundle(bundle, is_main_result=True))) == {
        "type": "result",
        "text": "a",
        "html": "<a>",
        "markdown": "*a*",
        "svg": "<svg>",
        "png": "cG5n",
        "jpeg": "anBn",
        "pdf": "cGRm",
        "latex": "$a$",
        "json": {"a": 1},
        "javascript": "a()",
        "data": {"a": [1]},
        "chart": {"type": "line"},
        "extra": {"application/vnd.mine": 5},
        "is_main_result": True,
    }


def test_representations_that_are_missing_or_null_are_left_out() -> None:
    result = Result.from_mime_bundle({"text/plain": "1", "text/html": None}, is_main_result=False)
    assert json.loads(encode(result)) == {"type": "result", "text": "1", "extra": {}, "is_main_result": False}


@pytest.mark.parametrize(
    ("text", "stripped"),
    [
        ("'a'", "a"),
        ('"it\'s"', "it's"),
        ("''", ""),
        ("''a''", "'a'"),
        ("'", "'"),
        ("'a\"", "'a\""),
        ("a", "a"),
        ("", ""),
    ],
)
def test_one_pair_of_quotes_is_stripped(text: str, stripped: str) -> None:
    assert without_quotes(text) == stripped
