from collections.abc import Iterator
from pathlib import Path

import pytest
from e2b.exceptions import TimeoutException
from e2b_code_interpreter import Context, Execution, Sandbox

from tests.integration.code_interpreter.interpreter import Interpreter, children


@pytest.fixture
def shell(sandbox: Sandbox) -> Iterator[Context]:
    context = sandbox.create_code_context(language="bash")
    yield context
    sandbox.remove_code_context(context)


def stdout(execution: Execution) -> str:
    return "".join(execution.logs.stdout)


def stderr(execution: Execution) -> str:
    return "".join(execution.logs.stderr)


def test_the_default_context_starts_in_the_home(sandbox: Sandbox, interpreter: Interpreter) -> None:
    execution = sandbox.run_code("pwd", language="bash")
    assert (stdout(execution), stderr(execution), execution.error) == (f"{interpreter.home}\n", "", None)


def test_a_context_has_its_working_directory(sandbox: Sandbox, tmp_path: Path) -> None:
    context = sandbox.create_code_context(language="bash", cwd=str(tmp_path))
    assert stdout(sandbox.run_code("pwd", context=context)) == f"{tmp_path}\n"
    sandbox.remove_code_context(context)


def test_state_lasts(sandbox: Sandbox, shell: Context, tmp_path: Path) -> None:
    code = f"cd {tmp_path}; own=1; export LASTS=2; declare -A map; map[a]=3; f() {{ echo f$1; }}; alias g='echo g'"
    assert sandbox.run_code(code, context=shell).error is None
    execution = sandbox.run_code('pwd; echo $own ${map[a]}; bash -c "echo \\$LASTS"; f 4; g', context=shell)
    assert stdout(execution) == f"{tmp_path}\n1 3\n2\nf4\ng\n"


def test_output_goes_where_it_was_written(sandbox: Sandbox, shell: Context) -> None:
    execution = sandbox.run_code("echo out; echo err >&2; PS1='shown? '", context=shell)
    assert (stdout(execution), stderr(execution)) == ("out\n", "err\n")
    execution = sandbox.run_code('cat <<END\nit\'s "$((1 + 1))" é\nEND', context=shell)
    assert (stdout(execution), stderr(execution)) == ('it\'s "2" é\n', "")


@pytest.mark.parametrize(
    ("code", "status", "said"),
    [
        ("(exit 7)", "7", ""),
        ("no-such-command", "127", "no-such-command: command not found"),
        ("echo before\necho (", "2", "syntax error"),
        ("echo 'open", "2", "unexpected EOF"),
        ("echo ${nope:?missing}; echo not here", "1", "nope: missing"),
        ("while true; do break 5; done; false", "1", ""),
    ],
)
def test_an_exit_status_is_an_error_and_loses_nothing(
    sandbox: Sandbox, shell: Context, code: str, status: str, said: str
) -> None:
    sandbox.run_code("kept=1", context=shell)
    execution = sandbox.run_code(code, context=shell)
    assert execution.error is not None
    assert (execution.error.name, execution.error.value) == ("", status)
    assert said in stderr(execution)
    assert "not here" not in stdout(execution)
    assert stdout(sandbox.run_code("echo $kept", context=shell)) == "1\n"


def test_a_shell_that_exits_is_replaced(sandbox: Sandbox, shell: Context) -> None:
    error = sandbox.run_code("sleep 300 & exit 3", context=shell).error
    assert error is not None
    assert error.name == "ProcessExit"
    assert "bash ended with status 3" in error.value
    assert stdout(sandbox.run_code("echo again", context=shell)) == "again\n"


def test_nothing_is_to_be_read(sandbox: Sandbox, shell: Context) -> None:
    assert stdout(sandbox.run_code("cat; read line || echo none", context=shell)) == "none\n"


@pytest.mark.parametrize("endless", ["while true; do :; done", "sleep 300; echo on", "sleep 300 | cat"])
def test_a_client_that_leaves_interrupts_its_cell(sandbox: Sandbox, shell: Context, endless: str) -> None:
    sandbox.run_code("kept=1", context=shell)
    with pytest.raises(TimeoutException):
        sandbox.run_code(endless, context=shell, timeout=1)
    assert stdout(sandbox.run_code("echo $kept", context=shell)) == "1\n"


def test_a_job_in_the_background_outlives_its_cell_and_not_its_context(
    sandbox: Sandbox, interpreter: Interpreter
) -> None:
    context = sandbox.create_code_context(language="bash")
    job = int(stdout(sandbox.run_code("sleep 300 >/dev/null 2>&1 & echo $!", context=context)))
    assert sandbox.run_code(f"kill -0 {job}", context=context).error is None
    (shell,) = children(interpreter.kernel(context.id))
    assert children(shell) == [job]
    sandbox.remove_code_context(context)
    assert not Path(f"/proc/{shell}").exists()


def test_much_output_arrives_whole(sandbox: Sandbox, shell: Context) -> None:
    execution = sandbox.run_code("for i in {1..2000}; do printf '%0999d\\n' 0; done", context=shell)
    assert len(stdout(execution)) == 2_000_000


def test_bash_starts_with_the_first_cell(sandbox: Sandbox, interpreter: Interpreter, shell: Context) -> None:
    """One in a snapshot would draw the same $RANDOM in every clone."""
    assert children(interpreter.kernel(shell.id)) == []
