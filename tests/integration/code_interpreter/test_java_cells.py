"""Java by JShell. Runs in the image, which has Java."""

import threading

import pytest
from e2b.exceptions import TimeoutException
from e2b_code_interpreter import Context, Execution, Sandbox

from tests.integration.code_interpreter.interpreter import Interpreter


@pytest.fixture
def sandbox(image_interpreter: Interpreter) -> Sandbox:
    return image_interpreter.sandbox()


@pytest.fixture
def context(sandbox: Sandbox) -> Context:
    """A fresh context; the interpreter ends with the session."""
    return sandbox.create_code_context(language="java")


def run(sandbox: Sandbox, code: str) -> Execution:
    return sandbox.run_code(code, language="java")


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("1 + 1", "2"),
        ("int answer = 42; answer", "42"),
        ("int declared = 1;", None),
        ('String s = "it\'s \\"é\\"\\t\U0001f600\\\\"; s', 'it\'s "é"\t\U0001f600\\'),
        ("record Point(int x) {}\nnew Point(3)", "Point[x=3]"),
        ("class A {\n  int f() { return 3; }\n}\nnew A().f()", "3"),
        ("int twice(int n) { return 2 * n; }\ntwice(4)", "8"),
        ("Stream.of(1, 2).map(n -> n + 1).collect(Collectors.toList())", "[2, 3]"),
        ("import java.time.Year;\nYear.of(2024).isLeap()", "true"),
        ("    int indented = 5;\n    indented", "5"),
        ("// nothing but a comment", None),
        ("null", None),
        ("new int[] {1, 2}", "int[2] { 1, 2 }"),
    ],
)
def test_the_last_value_is_the_result(sandbox: Sandbox, code: str, text: str | None) -> None:
    execution = run(sandbox, code)
    assert execution.error is None
    assert execution.text == text


def test_state_lasts_and_may_be_declared_again(sandbox: Sandbox) -> None:
    run(sandbox, "var kept = new ArrayList<>(List.of(1));")
    assert run(sandbox, "kept.add(2); kept").text == "[1, 2]"
    assert run(sandbox, 'String kept = "again"; kept').text == "again"


def test_a_line_and_its_end_are_two_events(sandbox: Sandbox) -> None:
    """As from the kernel that E2B has; its clients' tests look at the first."""
    execution = run(sandbox, 'System.out.println("Hello, World!"); System.err.print("oops")')
    assert (execution.logs.stdout, execution.logs.stderr) == (["Hello, World!", "\n"], ["oops"])


def test_an_exception_is_an_error(sandbox: Sandbox) -> None:
    error = run(
        sandbox, 'int f() { throw new IllegalStateException("why"); }\nf(); System.out.println("not here")'
    ).error
    assert error is not None
    assert (error.name, error.value) == ("IllegalStateException", "why")
    assert error.traceback.startswith("java.lang.IllegalStateException: why\n\tat f(")
    assert "jdk.jshell" not in error.traceback


def test_what_does_not_compile_is_an_error_with_its_place(sandbox: Sandbox) -> None:
    error = run(sandbox, 'int number = "text";').error
    assert error is not None
    assert error.name == "CompilationException"
    assert "cannot be converted to int" in error.value
    assert error.traceback.endswith('int number = "text";\n             ^')


def test_a_method_that_calls_what_is_not_there_is_an_error_when_called(sandbox: Sandbox) -> None:
    error = run(sandbox, "int g() { return absent(); }\ng()").error
    assert error is not None
    assert error.name == "UnresolvedReferenceException"
    assert "absent" in error.value


@pytest.mark.parametrize(
    "endless",
    ["while (true) {}", "Thread.sleep(300_000);", "while (true) { try { Thread.sleep(9); } catch (Exception e) {} }"],
)
def test_a_client_that_leaves_interrupts_its_cell(sandbox: Sandbox, context: Context, endless: str) -> None:
    sandbox.run_code("int kept = 1;", context=context)
    with pytest.raises(TimeoutException):
        sandbox.run_code(endless, context=context, timeout=1)
    assert sandbox.run_code("kept", context=context, timeout=20).text == "1"


def test_restart_ends_what_runs(sandbox: Sandbox, context: Context) -> None:
    started = threading.Event()

    def restart() -> None:
        assert started.wait(30)
        sandbox.restart_code_context(context)

    restarting = threading.Thread(target=restart)
    restarting.start()
    code = "System.out.println(1); while (true) {}"
    execution = sandbox.run_code(code, context=context, on_stdout=lambda _: started.set())
    restarting.join()
    assert execution.error is not None
    assert execution.error.name == "ContextRestarting"
    assert sandbox.run_code("1 + 1", context=context).text == "2"


def test_a_process_that_exits_is_replaced(sandbox: Sandbox, context: Context) -> None:
    error = sandbox.run_code("System.exit(3);", context=context).error
    assert error is not None
    assert error.name == "ProcessExit"
    assert "Java ended with status 3" in error.value
    assert sandbox.run_code("1 + 1", context=context).text == "2"


def test_much_output_arrives_whole(sandbox: Sandbox) -> None:
    execution = run(sandbox, 'for (int i = 0; i < 2000; i++) System.out.println("é".repeat(999));')
    assert len("".join(execution.logs.stdout)) == 2_000_000


def test_nothing_is_to_be_read(sandbox: Sandbox) -> None:
    assert run(sandbox, "System.in.read()").text == "-1"
