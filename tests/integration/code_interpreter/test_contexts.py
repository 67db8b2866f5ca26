import threading
import time
from pathlib import Path

import httpx
import pytest
from e2b.exceptions import NotFoundException, TimeoutException
from e2b_code_interpreter import Context, Sandbox

from tests.integration.code_interpreter.interpreter import Interpreter

FOREVER = {"python": "while True: pass", "javascript": "while (true) {}"}
WAITING = {"python": "import time\nwhile True: time.sleep(1)", "javascript": "await new Promise(() => {})"}


@pytest.fixture(params=["python", "javascript"])
def context(request: pytest.FixtureRequest, sandbox: Sandbox) -> Context:
    """A fresh context; the interpreter ends with the session."""
    return sandbox.create_code_context(language=request.param)


def test_health(interpreter: Interpreter) -> None:
    answer = httpx.get(f"{interpreter.url}/health")
    assert (answer.status_code, answer.json()) == (200, "OK")


def test_the_first_contexts_are_the_defaults(sandbox: Sandbox, interpreter: Interpreter) -> None:
    first, second = sandbox.list_code_contexts()[:2]
    assert {first.language, second.language} == {"python", "javascript"}
    assert {first.cwd, second.cwd} == {str(interpreter.home)}


def test_a_new_context_is_listed_last_and_keeps_its_own_state(sandbox: Sandbox, context: Context) -> None:
    assert sandbox.list_code_contexts()[-1].id == context.id
    sandbox.run_code("own = 1", context=context)
    default = sandbox.run_code("own", language=context.language)
    assert default.error is not None
    assert default.error.name in ("NameError", "ReferenceError")


def test_a_context_has_its_working_directory(sandbox: Sandbox, tmp_path: Path) -> None:
    context = sandbox.create_code_context(cwd=str(tmp_path))
    assert context.cwd == str(tmp_path)
    assert sandbox.run_code("import os; os.getcwd()", context=context).text == str(tmp_path)
    sandbox.remove_code_context(context)


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"cwd": "/nonexistent"}, 500),
        ({"language": "no-such-language"}, 400),
    ],
)
def test_a_context_that_cannot_be_is_refused(interpreter: Interpreter, fields: dict[str, str], status: int) -> None:
    answer = httpx.post(f"{interpreter.url}/contexts", json=fields, timeout=60)
    assert answer.status_code == status
    assert next(iter(fields.values())) in answer.text


def test_a_cell_in_a_language_that_is_not_installed_is_refused(interpreter: Interpreter) -> None:
    answer = httpx.post(f"{interpreter.url}/execute", json={"code": "1", "language": "cobol"}, timeout=60)
    assert answer.status_code == 400
    assert answer.text.startswith("Language cobol is not installed. Installed kernels: bash, ")


def test_restart_clears_the_state_and_keeps_the_id(sandbox: Sandbox, context: Context) -> None:
    sandbox.run_code("own = 1", context=context)
    sandbox.restart_code_context(context)
    assert context.id in [each.id for each in sandbox.list_code_contexts()]
    execution = sandbox.run_code("own", context=context)
    assert execution.error is not None


def test_restart_ends_what_runs(sandbox: Sandbox, context: Context) -> None:
    started = threading.Event()
    code = {"python": "print(1)\n", "javascript": "console.log(1);\n"}[context.language]

    def restart() -> None:
        assert started.wait(30)
        sandbox.restart_code_context(context)

    restarting = threading.Thread(target=restart)
    restarting.start()
    execution = sandbox.run_code(code + FOREVER[context.language], context=context, on_stdout=lambda _: started.set())
    restarting.join()
    assert execution.error is not None
    assert execution.error.name == "ContextRestarting"
    assert sandbox.run_code("1 + 1", context=context).text == "2"


def test_a_removed_context_is_gone(sandbox: Sandbox, context: Context) -> None:
    sandbox.remove_code_context(context)
    assert context.id not in [each.id for each in sandbox.list_code_contexts()]
    with pytest.raises(NotFoundException):
        sandbox.run_code("1", context=context)


@pytest.mark.parametrize(("method", "path"), [("DELETE", "/contexts/nope"), ("POST", "/contexts/nope/restart")])
def test_an_unknown_context_is_not_found(interpreter: Interpreter, method: str, path: str) -> None:
    answer = httpx.request(method, interpreter.url + path)
    assert (answer.status_code, answer.text) == (404, "Context nope not found")


def test_a_context_and_a_language_are_too_much(interpreter: Interpreter) -> None:
    body = {"code": "1", "context_id": "a", "language": "python"}
    answer = httpx.post(f"{interpreter.url}/execute", json=body)
    assert answer.status_code == 400
    assert answer.text == "Only one of context_id or language can be provided"


@pytest.mark.parametrize(
    "body", ["", "[]", "{}", '{"code": 1}', '{"code": "1", "env_vars": {"A": 1}}', '{"code": "1", "language": 2}']
)  # fmt: skip
def test_a_body_that_makes_no_sense_is_refused(interpreter: Interpreter, body: str) -> None:
    assert httpx.post(f"{interpreter.url}/execute", content=body).status_code == 422


@pytest.mark.parametrize("endless", [FOREVER, WAITING], ids=["busy", "waiting"])
def test_a_client_that_leaves_interrupts_its_cell(sandbox: Sandbox, context: Context, endless: dict[str, str]) -> None:
    sandbox.run_code("kept = 1", context=context)
    with pytest.raises(TimeoutException):
        sandbox.run_code(endless[context.language], context=context, timeout=1)
    assert sandbox.run_code("kept", context=context).text == "1"


def test_cells_of_a_context_take_turns(sandbox: Sandbox, context: Context) -> None:
    assert context.language in FOREVER
    codes = {
        "python": "import time; print('in'); time.sleep(0.2); print('out')",
        "javascript": "console.log('in'); await new Promise(f => setTimeout(f, 200)); console.log('out')",
    }
    ends: list[tuple[float, list[str]]] = []

    def run() -> None:
        execution = sandbox.run_code(codes[context.language], context=context)
        ends.append((time.monotonic(), execution.logs.stdout))

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ["".join(stdout) for _, stdout in ends] == ["in\nout\n"] * 3


def test_a_kernel_that_dies_ends_the_cell_and_is_replaced_every_time(sandbox: Sandbox) -> None:
    context = sandbox.create_code_context()
    for _ in range(7):  # Jupyter by itself gives up after five
        execution = sandbox.run_code("import os; os.kill(os.getpid(), 9)", context=context)
        assert execution.error is not None
        assert execution.error.name == "ContextRestarting"
    assert sandbox.run_code("1 + 1", context=context).text == "2"
    sandbox.remove_code_context(context)
