import pytest

from tests.integration.code_interpreter.interpreter import Interpreter

GET = {
    "python": "import os; print(os.environ.get('{}'))",
    "javascript": "console.log(process.env['{}'] ?? 'None')",
    "typescript": "console.log((process.env['{}'] as string | undefined) ?? 'None')",
    "bash": 'echo "${{{}-None}}"',
}


@pytest.fixture(params=list(GET))
def language(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def read(interpreter: Interpreter, language: str, name: str, token: str | None, **envs: str) -> str:
    sandbox = interpreter.sandbox(token)
    return "".join(sandbox.run_code(GET[language].format(name), language=language, envs=envs).logs.stdout).strip()


def test_cells_see_the_variables_of_the_sandbox(interpreter: Interpreter, language: str) -> None:
    assert read(interpreter, language, "FROM_SANDBOX", "first") == "first"


def test_variables_of_a_cell_are_for_that_cell(interpreter: Interpreter, language: str) -> None:
    assert read(interpreter, language, "FROM_CELL", "first", FROM_CELL="it's") == "it's"
    assert read(interpreter, language, "FROM_CELL", "first") == "None"


def test_variables_of_a_cell_hide_those_of_the_sandbox(interpreter: Interpreter, language: str) -> None:
    assert read(interpreter, language, "FROM_SANDBOX", "first", FROM_SANDBOX="cell") == "cell"
    assert read(interpreter, language, "FROM_SANDBOX", "first") == "first"


def test_inherited_variables_come_back(interpreter: Interpreter, language: str) -> None:
    path = read(interpreter, language, "PATH", "first")
    assert read(interpreter, language, "PATH", "first", PATH="/nowhere") == "/nowhere"
    assert read(interpreter, language, "PATH", "first") == path


def test_a_clone_gets_the_variables_of_its_own(interpreter: Interpreter, language: str) -> None:
    assert read(interpreter, language, "ONLY_FIRST", "first") == "1"
    assert read(interpreter, language, "FROM_SANDBOX", "second") == "second"
    assert read(interpreter, language, "ONLY_FIRST", "second") == "None"
    assert read(interpreter, language, "LANG", "first") == "first"
    assert read(interpreter, language, "LANG", "second") == "C.UTF-8"


def test_a_cell_that_fails_loses_its_variables_too(interpreter: Interpreter) -> None:
    interpreter.sandbox("first").run_code("1/0", envs={"FROM_CELL": "1"})
    assert read(interpreter, "python", "FROM_CELL", "first") == "None"
