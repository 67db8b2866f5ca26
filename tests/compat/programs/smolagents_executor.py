"""smolagents' executor of agent code in an E2B sandbox. No model is called."""

from __future__ import annotations

from checks import check, run_all
from smolagents.monitoring import AgentLogger, LogLevel
from smolagents.remote_executors import E2BExecutor


def _executor() -> E2BExecutor:
    return E2BExecutor([], AgentLogger(level=LogLevel.OFF), timeout=180)


@check
def code_runs_and_answers() -> None:
    executor = _executor()
    try:
        executor.run_code_raise_errors("x = 20")
        output = executor.run_code_raise_errors("print('said'); x * 2 + 2")
        assert "said" in output.logs
        assert str(output.output) == "42"
    finally:
        executor.cleanup()


@check
def variables_are_sent() -> None:
    executor = _executor()
    try:
        executor.send_variables({"numbers": [1, 2, 3]})
        assert str(executor.run_code_raise_errors("sum(numbers)").output) == "6"
    finally:
        executor.cleanup()


@check
def an_error_is_raised() -> None:
    executor = _executor()
    try:
        executor.run_code_raise_errors("1 / 0")
    except Exception as error:
        assert "ZeroDivisionError" in str(error)
    else:
        raise AssertionError("no error")
    finally:
        executor.cleanup()


if __name__ == "__main__":
    run_all()
