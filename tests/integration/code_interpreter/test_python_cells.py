import base64
from pathlib import Path

import pytest
from e2b_code_interpreter import OutputMessage, Sandbox

from tests.integration.code_interpreter.interpreter import Interpreter


def test_state_lasts_from_cell_to_cell(sandbox: Sandbox) -> None:
    sandbox.run_code("state = 41")
    execution = sandbox.run_code("state += 1; state")
    assert execution.text == "42"
    assert execution.error is None


def test_one_print_is_one_event(sandbox: Sandbox) -> None:
    messages: list[OutputMessage] = []
    execution = sandbox.run_code("print('hello')", on_stdout=messages.append)
    assert execution.logs.stdout == ["hello\n"]
    assert [(message.line, message.error) for message in messages] == [("hello\n", False)]


def test_stderr_is_told_apart(sandbox: Sandbox) -> None:
    execution = sandbox.run_code("import sys; print('oops', file=sys.stderr)")
    assert execution.logs.stderr == ["oops\n"]
    assert execution.logs.stdout == []


def test_a_failure_has_name_value_and_traceback(sandbox: Sandbox) -> None:
    error = sandbox.run_code("1/0").error
    assert error is not None
    assert (error.name, error.value) == ("ZeroDivisionError", "division by zero")
    assert "1/0" in error.traceback
    assert "\x1b[" not in error.traceback


def test_text_of_a_string_has_no_quotes(sandbox: Sandbox) -> None:
    assert sandbox.run_code("'abc'").text == "abc"


def test_a_uniformly_indented_cell_runs(sandbox: Sandbox) -> None:
    execution = sandbox.run_code("    a = 1\n    if a:\n        a = 2\n    a", envs={"ANY": "1"})
    assert execution.text == "2"


def test_the_stream_of_a_cell(interpreter: Interpreter) -> None:
    lines = interpreter.execute("print(1)\ndisplay(2)\n3")
    assert [line["type"] for line in lines] == [
        "number_of_executions",
        "stdout",
        "result",
        "result",
        "end_of_execution",
    ]
    assert [line["is_main_result"] for line in lines if line["type"] == "result"] == [False, True]
    assert all(next(iter(line)) == "type" for line in lines)


def test_a_shell_escape_runs_in_the_home(sandbox: Sandbox, interpreter: Interpreter) -> None:
    assert "".join(sandbox.run_code("!pwd").logs.stdout).strip() == str(interpreter.home)


def test_a_magic_changes_the_directory_for_the_cells_after_it(sandbox: Sandbox, tmp_path: Path) -> None:
    context = sandbox.create_code_context()
    assert sandbox.run_code(f"%cd {tmp_path}", context=context).error is None
    assert "".join(sandbox.run_code("!pwd", context=context).logs.stdout).strip() == str(tmp_path)
    sandbox.remove_code_context(context)


def test_something_is_sent_into_silence(interpreter: Interpreter) -> None:
    types = [line["type"] for line in interpreter.execute("import time; time.sleep(6)")]
    assert types == ["number_of_executions", "keepalive", "end_of_execution"]


def test_every_representation_arrives(sandbox: Sandbox) -> None:
    code = """
    display({"text/html": "<b>", "text/markdown": "*", "image/svg+xml": "<svg>", "text/latex": "$",
             "application/javascript": "1", "application/pdf": "cA==", "image/jpeg": "ag==",
             "application/x-own": {"a": 1}}, raw=True)
    """
    (result,) = sandbox.run_code(code).results
    assert (result.html, result.markdown, result.svg, result.latex) == ("<b>", "*", "<svg>", "$")
    assert (result.javascript, result.pdf, result.jpeg) == ("1", "cA==", "ag==")
    assert result.extra == {"application/x-own": {"a": 1}}
    assert not result.is_main_result


def test_containers_are_json_too(sandbox: Sandbox) -> None:
    (result,) = sandbox.run_code("{'a': [1, None], 2: 'b'}").results
    assert result.json == {"a": [1, None], "2": "b"}
    assert not result.extra
    (result,) = sandbox.run_code("[object]").results
    assert result.json is None


def test_a_frame_is_data(sandbox: Sandbox) -> None:
    code = """
    import pandas as pd
    pd.DataFrame({"n": [1, None], "t": pd.to_datetime(["2024-01-02", None]), "s": ["a", "b"]})
    """
    (result,) = sandbox.run_code(code).results
    assert result.data == {"n": [1.0, None], "t": ["2024-01-02T00:00:00", None], "s": ["a", "b"]}
    assert result.html is not None
    assert "<table" in result.html


def test_a_plot_is_a_picture(sandbox: Sandbox) -> None:
    execution = sandbox.run_code("import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()")
    (result,) = execution.results
    assert result.png is not None
    assert base64.b64decode(result.png).startswith(b"\x89PNG")
    assert execution.logs.stderr == []


def test_a_saved_image_is_shown(sandbox: Sandbox, tmp_path: Path) -> None:
    code = f"from PIL import Image\nImage.new('RGB', (2, 2)).save('{tmp_path}/a.png')"
    (result,) = sandbox.run_code(code).results
    assert result.png is not None
    assert (tmp_path / "a.png").exists()


def test_showing_an_image_opens_no_viewer(sandbox: Sandbox) -> None:
    execution = sandbox.run_code("from PIL import Image\nImage.new('RGB', (2, 2)).show()")
    assert [result.png is not None for result in execution.results] == [True]
    assert execution.error is None


@pytest.mark.parametrize("size", [2_000_000])
def test_much_output_arrives_whole(sandbox: Sandbox, size: int) -> None:
    execution = sandbox.run_code(f"print('x' * {size})")
    assert len("".join(execution.logs.stdout)) == size + 1


def test_output_that_comes_faster_than_it_is_read_arrives_whole(sandbox: Sandbox) -> None:
    execution = sandbox.run_code("for number in range(3000): display(number)")
    assert [result.text for result in execution.results] == [str(number) for number in range(3000)]


def test_what_a_forked_process_prints_arrives(sandbox: Sandbox) -> None:
    code = """
    import multiprocessing
    process = multiprocessing.get_context("fork").Process(target=print, args=("from the child",))
    process.start(); process.join()
    """
    assert "".join(sandbox.run_code(code).logs.stdout) == "from the child\n"


def test_the_path_of_modules_is_that_of_the_users_python(sandbox: Sandbox) -> None:
    ask = """python3 -c 'import sys; print(sys.path[1:])'"""  # the first entry is where it runs
    sandbox.run_code("import subprocess, sys")
    code = f"eval(subprocess.getoutput({ask!r})) == [path for path in sys.path if path]"
    assert sandbox.run_code(code).text == "True"


def test_randomness_is_renewed_before_the_first_cell_of_a_sandbox(interpreter: Interpreter) -> None:
    seed = "import random; random.seed(1)"
    draw = "import random; random.random()"
    first, second = interpreter.sandbox("first"), interpreter.sandbox("second")
    first.run_code(seed)
    seeded = first.run_code(draw).text
    first.run_code(seed)
    # Another token: this memory has become another sandbox.
    assert second.run_code(draw).text != seeded
