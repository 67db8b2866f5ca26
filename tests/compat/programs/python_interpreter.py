"""What a team does with the Python code interpreter SDK, on whichever release is installed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from checks import check, needs, run_all
from e2b_code_interpreter import Sandbox


@contextlib.contextmanager
def interpreter() -> Iterator[Any]:
    make = Sandbox.create if hasattr(Sandbox, "create") else Sandbox
    made = make(timeout=180)
    try:
        yield made
    finally:
        made.kill()


@check
def state_lives_from_cell_to_cell() -> None:
    with interpreter() as one:
        one.run_code("x = 41")
        execution = one.run_code("x + 1")
        assert execution.text == "42"
        assert execution.error is None


@check
def output_streams_as_it_comes() -> None:
    with interpreter() as one:
        said: list[str] = []
        one.run_code("print('one'); print('two')", on_stdout=lambda message: said.append(message.line))
        assert "".join(said) == "one\ntwo\n"


@check
def an_error_has_name_value_and_traceback() -> None:
    with interpreter() as one:
        error = one.run_code("1 / 0").error
        assert error is not None
        assert (error.name, error.value) == ("ZeroDivisionError", "division by zero")
        assert "1 / 0" in error.traceback


@check
def a_plot_is_a_picture_and_a_chart() -> None:
    with interpreter() as one:
        execution = one.run_code(
            "import matplotlib.pyplot as plt\n"
            "plt.bar(['a', 'b'], [1, 2]); plt.title('Sizes'); plt.xlabel('what'); plt.ylabel('size')\n"
            "plt.show()"
        )
        (result,) = execution.results
        assert result.png
        assert result.chart.type.value == "bar"
        assert [element.value for element in result.chart.elements] == [1, 2]


@check
def a_table_is_data() -> None:
    with interpreter() as one:
        execution = one.run_code("import pandas as pd\npd.DataFrame({'a': [1, 2]})")
        assert execution.results[0].data == {"a": [1, 2]}


@check
def contexts_keep_to_themselves() -> None:
    with interpreter() as one:
        other = one.create_code_context(cwd="/tmp")
        one.run_code("secret = 1")
        assert one.run_code("'secret' in globals()", context=other).text == "False"
        assert one.run_code("import os; os.getcwd()", context=other).text == "/tmp"


@check
def contexts_are_listed_restarted_and_removed() -> None:
    with interpreter() as one:
        needs(one, "list_code_contexts", "restart_code_context", "remove_code_context")
        other = one.create_code_context()
        assert other.id in {each.id for each in one.list_code_contexts()}
        one.run_code("x = 1", context=other)
        one.restart_code_context(other)
        assert one.run_code("'x' in globals()", context=other).text == "False"
        one.remove_code_context(other)
        assert other.id not in {each.id for each in one.list_code_contexts()}


@check
def environment_reaches_the_kernel_for_one_cell() -> None:
    with interpreter() as one:
        assert one.run_code("import os; os.environ['A']", envs={"A": "once"}).text == "once"
        assert one.run_code("os.environ.get('A', 'gone')").text == "gone"


@check
def javascript_and_bash_run() -> None:
    with interpreter() as one:
        assert one.run_code("[1, 2, 3].map(n => n * 2).join()", language="js").text == "2,4,6"
        assert one.run_code("echo $((6 * 7))", language="bash").logs.stdout == ["42\n"]


@check
def files_and_commands_share_its_machine() -> None:
    with interpreter() as one:
        one.run_code("open('/home/user/from-cell', 'w').write('x')")
        assert one.files.read("/home/user/from-cell") == "x"
        assert one.commands.run("ls /home/user/from-cell").exit_code == 0


if __name__ == "__main__":
    run_all()
