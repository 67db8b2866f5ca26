import pytest
from e2b.exceptions import TimeoutException
from e2b_code_interpreter import Execution, Sandbox

from tests.integration.code_interpreter.interpreter import Interpreter


def run(sandbox: Sandbox, code: str) -> Execution:
    return sandbox.run_code(code, language="ts")


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("const a: number = 1 + 1; a", "2"),
        ("interface A { a: number }\n({ a: 1 } as A)", "{ a: 1 }"),
        ("{a: 1}", "{ a: 1 }"),
        ("enum Color { Red, Green }\nColor[1]", "Green"),
        ("namespace N { export const inner = 3 }\nN.inner", "3"),
        ("class P { constructor(private readonly v: string) {} get() { return this.v } }\nnew P('p').get()", "p"),
        ("await Promise.resolve<string>('é')", "é"),
        ("import {basename} from 'path'; import type {Stats} from 'fs'; basename('/a/d')", "d"),
        ("function id<T>(value: T): T { return value }\nid<string>('x')!", "x"),
        ("type Only = string", None),
    ],
)
def test_types_are_taken_out_and_the_rest_runs(sandbox: Sandbox, code: str, text: str | None) -> None:
    execution = run(sandbox, code)
    assert execution.error is None
    assert execution.text == text


def test_what_a_cell_declares_or_imports_is_there_in_the_next(sandbox: Sandbox) -> None:
    run(sandbox, "import os from 'os'; let kept: string = 'k'")
    assert run(sandbox, "typeof os.cpus + kept").text == "functionk"


def test_it_shares_no_variables_with_javascript(sandbox: Sandbox) -> None:
    run(sandbox, "const mine: number = 1")
    assert sandbox.run_code("typeof mine", language="js").text == "undefined"


def test_a_failure_names_the_line_of_the_cell(sandbox: Sandbox) -> None:
    code = "// nothing left of this\ninterface A {\n  a: number\n}\n\nconst gone = null as any\ngone.x"
    error = run(sandbox, code).error
    assert error is not None
    assert error.name == "TypeError"
    assert ":7" in error.traceback


def test_what_is_no_typescript_is_a_syntax_error(sandbox: Sandbox) -> None:
    error = run(sandbox, "const fine = 1\nlet x: number x").error
    assert error is not None
    assert error.name == "SyntaxError"
    assert error.traceback.endswith("let x: number x\n              ^")


def test_a_cell_cannot_lose_the_compiler(sandbox: Sandbox) -> None:
    context = sandbox.create_code_context(language="typescript")
    sandbox.run_code("process.env.PATH = '/nowhere'", context=context)
    assert sandbox.run_code("const a: number = 3; a", context=context).text == "3"
    sandbox.remove_code_context(context)


def test_a_context_starts_in_the_home(sandbox: Sandbox, interpreter: Interpreter) -> None:
    assert run(sandbox, "process.cwd() as string").text == str(interpreter.home)
    assert "typescript" in [each.language for each in sandbox.list_code_contexts()]


def test_a_client_that_leaves_interrupts_its_cell(sandbox: Sandbox) -> None:
    context = sandbox.create_code_context(language="typescript")
    sandbox.run_code("const kept: number = 1", context=context)
    with pytest.raises(TimeoutException):
        sandbox.run_code("while (true) {}", context=context, timeout=1)
    assert sandbox.run_code("kept", context=context).text == "1"
    sandbox.remove_code_context(context)
