import json
from pathlib import Path

import pytest
from e2b_code_interpreter import Execution, Sandbox

from tests.integration.code_interpreter.interpreter import Interpreter, children


def run(sandbox: Sandbox, code: str) -> Execution:
    return sandbox.run_code(code, language="js")


def test_declarations_last_and_may_be_repeated(sandbox: Sandbox) -> None:
    run(sandbox, "const a = 1; let b = 2; class C { n() { return 3 } } function f() { return 4 }")
    assert run(sandbox, "a + b + new C().n() + f()").text == "10"
    assert run(sandbox, "const a = 5; class C {} a").text == "5"


def test_declarations_beside_await_last_too(sandbox: Sandbox) -> None:
    run(
        sandbox,
        """
        const {p, q: [r], ...s} = await Promise.resolve({p: 1, q: [2], t: 3})
        function g() { return p }
        class D {}
        for (var i of [7]) { var j = i }
        """,
    )
    assert run(sandbox, "JSON.stringify([p, r, s, g(), typeof D, i, j])").text == json.dumps(
        [1, 2, {"t": 3}, 1, "function", 7, 7], separators=(",", ":")
    )


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("1 + 1", "2"),
        ("'abc'", "abc"),
        ("({a: [1, 'x']})", "{ a: [ 1, 'x' ] }"),
        ("{a: 1}", "{ a: 1 }"),
        ("null", "null"),
        ("await Promise.resolve(6)", "6"),
        ("Promise.resolve(7)", "7"),
        ("[1, 2].map(x => x * 2)", "[ 2, 4 ]"),
        ("(await import('node:path')).basename('/a/b')", "b"),
        ("require('path').basename('/a/c')", "c"),
        ("import {basename} from 'path'; basename('/a/d')", "d"),
        ("import * as p from 'path'\nimport fs, {stat as s} from 'fs'\n[p.sep, fs.stat === s].join()", "/,true"),
        ("const crypto = require('crypto'); typeof crypto.createHash", "function"),
        ("undefined", None),
        ("const only = 1", None),
        ("", None),
    ],
)
def test_the_value_of_the_last_expression_is_the_result(sandbox: Sandbox, code: str, text: str | None) -> None:
    execution = run(sandbox, code)
    assert execution.error is None
    assert execution.text == text


def test_output_goes_where_it_was_written(sandbox: Sandbox) -> None:
    execution = run(sandbox, "console.log('out', {a: 1}); console.error('err')")
    assert execution.logs.stdout == ["out { a: 1 }\n"]
    assert execution.logs.stderr == ["err\n"]


def test_output_of_a_child_process_is_output(sandbox: Sandbox) -> None:
    code = "const done = require('child_process').spawnSync('echo', ['child'], {stdio: 'inherit'}).status; done"
    execution = run(sandbox, code)
    assert execution.text == "0"
    assert "".join(execution.logs.stdout) == "child\n"


def test_a_function_that_is_called_last_is_waited_for(sandbox: Sandbox) -> None:
    code = "async function main() { await new Promise(f => setTimeout(f, 20)); console.log('done') }\nmain()"
    assert run(sandbox, code).logs.stdout == ["done\n"]


def test_a_failure_names_the_line_of_the_cell(sandbox: Sandbox) -> None:
    error = run(sandbox, "const a = 1;\nnull.x").error
    assert error is not None
    assert error.name == "TypeError"
    assert "Cannot read properties of null" in error.value
    assert ":2:" in error.traceback
    assert "driver.mjs" not in error.traceback


def test_a_failure_after_await_is_one_too(sandbox: Sandbox) -> None:
    error = run(sandbox, "await null;\nthrow new RangeError('far')").error
    assert error is not None
    assert (error.name, error.value) == ("RangeError", "far")


def test_what_is_no_javascript_is_a_syntax_error(sandbox: Sandbox) -> None:
    error = run(sandbox, "let x = 1\nfoo(").error
    assert error is not None
    assert error.name == "SyntaxError"
    assert "foo(" in error.traceback


@pytest.mark.parametrize("code", ["import x from 'no-such-package'", "import {nope} from 'fs'"])
def test_what_cannot_be_imported_fails(sandbox: Sandbox, code: str) -> None:
    assert run(sandbox, code).error is not None


def test_modules_of_the_working_directory_can_be_imported(sandbox: Sandbox, interpreter: Interpreter) -> None:
    (interpreter.home / "own.mjs").write_text("export const answer = 42; export default 'd'")
    package = interpreter.home / "node_modules" / "esm-only"
    package.mkdir(parents=True)
    (package / "package.json").write_text('{"type": "module", "exports": {"import": "./index.js"}}')
    (package / "index.js").write_text("export const name = 'esm'")
    code = "import d, {answer} from './own.mjs'; import {name} from 'esm-only'; [d, answer, name].join()"
    assert run(sandbox, code).text == "d,42,esm"


def test_an_uncaught_error_in_a_callback_does_not_end_the_process(sandbox: Sandbox) -> None:
    run(sandbox, "const kept = 1")
    code = "setTimeout(() => { throw new Error('late') }, 1); await new Promise(f => setTimeout(f, 50)); kept"
    execution = run(sandbox, code)
    assert execution.text == "1"
    assert "late" in "".join(execution.logs.stderr)


def test_a_process_that_exits_is_replaced(sandbox: Sandbox) -> None:
    error = run(sandbox, "process.exit(3)").error
    assert error is not None
    assert error.name == "ProcessExit"
    assert "3" in error.value
    assert run(sandbox, "1 + 1").text == "2"


def test_values_can_be_shown_in_every_representation(sandbox: Sandbox) -> None:
    code = """
    display({"text/html": "<b>", "application/x-own": 1}, {raw: true});
    display({[Symbol.for("Jupyter.display")]() { return {"text/markdown": "*"} }});
    """
    first, second = run(sandbox, code).results
    assert (first.html, first.extra, first.is_main_result) == ("<b>", {"application/x-own": 1}, False)
    assert second.markdown == "*"


def test_the_working_directory_is_the_home(sandbox: Sandbox, interpreter: Interpreter) -> None:
    assert run(sandbox, "process.cwd()").text == str(interpreter.home)


def test_much_output_arrives_whole(sandbox: Sandbox) -> None:
    execution = run(sandbox, "for (let i = 0; i < 20000; i++) console.log('x'.repeat(99))")
    assert len("".join(execution.logs.stdout)) == 2_000_000


def test_node_starts_with_the_first_cell(sandbox: Sandbox, interpreter: Interpreter) -> None:
    """A Node.js process in a snapshot would draw the same random numbers in every clone."""
    context = sandbox.create_code_context(language="javascript")
    kernel = interpreter.kernel(context.id)
    assert children(kernel) == []
    process_id = int(str(sandbox.run_code("process.pid", context=context).text))
    assert children(kernel) == [process_id]
    sandbox.remove_code_context(context)
    assert not Path(f"/proc/{process_id}").exists()
