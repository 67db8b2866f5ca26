"""Every language of the protocol, and the libraries that code of agents expects, in the image itself."""

import time
from contextlib import suppress
from pathlib import Path

import pytest
from e2b.exceptions import TimeoutException
from e2b_code_interpreter import Execution, Sandbox

from tests.integration.code_interpreter.image import running_image
from tests.integration.code_interpreter.interpreter import Interpreter


@pytest.fixture
def sandbox(image_interpreter: Interpreter) -> Sandbox:
    return image_interpreter.sandbox()


def text(execution: Execution) -> str:
    """Return the text of the first result, the main one or not: R's kernel displays its values."""
    assert execution.error is None
    return str(execution.results[0].text).strip()


def stdout(execution: Execution) -> str:
    return "".join(execution.logs.stdout)


@pytest.mark.parametrize(
    ("language", "code"),
    [
        ("python", "print('Hello')"),
        ("javascript", "console.log('Hello')"),
        ("js", "console.log('Hello')"),
        ("typescript", "console.log('Hello' as string)"),
        ("ts", "console.log('Hello' as string)"),
        ("r", "cat('Hello\n')"),
        ("java", 'System.out.println("Hello")'),
        ("bash", "echo Hello"),
    ],
)
def test_every_language_answers(sandbox: Sandbox, language: str, code: str) -> None:
    execution = sandbox.run_code(code, language=language)
    assert execution.error is None
    assert stdout(execution) == "Hello\n"


@pytest.mark.parametrize(
    ("language", "code", "home"),
    [
        ("python", "import os; os.getcwd()", "/home/user"),
        ("javascript", "process.cwd()", "/home/user"),
        ("typescript", "process.cwd()", "/home/user"),
        ("r", "getwd()", '[1] "/home/user"'),
        ("java", 'System.getProperty("user.dir")', "/home/user"),
    ],
)
def test_every_language_starts_in_the_home(sandbox: Sandbox, language: str, code: str, home: str) -> None:
    assert text(sandbox.run_code(code, language=language)) == home


@pytest.mark.parametrize(
    ("language", "code", "wrapped"),
    [("r", "Sys.getenv('{}', unset = 'none')", '[1] "{}"'), ("java", 'System.getProperty("{}", "none")', "{}")],
)
def test_variables_reach_r_and_java(image_interpreter: Interpreter, language: str, code: str, wrapped: str) -> None:
    def read(name: str, token: str, **envs: str) -> str:
        sandbox = image_interpreter.sandbox(token)
        return text(sandbox.run_code(code.format(name), language=language, envs=envs))

    assert read("FROM_SANDBOX", "first") == wrapped.format("first")
    assert read("FROM_SANDBOX", "first", FROM_SANDBOX="cell") == wrapped.format("cell")
    assert read("FROM_SANDBOX", "first") == wrapped.format("first")
    assert read("FROM_CELL", "first", FROM_CELL="it's é\\") == wrapped.format(
        "it's é\\\\" if language == "r" else "it's é\\"
    )
    assert read("FROM_CELL", "first") == wrapped.format("none")
    assert read("ONLY_FIRST", "second") == wrapped.format("none")


def test_r_shows_values_plots_and_failures(sandbox: Sandbox) -> None:
    assert sandbox.run_code('print("x")', language="r").logs.stdout == ['[1] "x"\n']
    sandbox.run_code("kept <- c(a = 1, b = 2)", language="r")
    assert text(sandbox.run_code("sum(kept)", language="r")) == "[1] 3"
    (plot,) = sandbox.run_code("plot(1:3, main = '\u4e2d')", language="r").results
    assert plot.png is not None
    (frame,) = sandbox.run_code("data.frame(n = 1:2)", language="r").results
    assert "<table" in str(frame.html)
    error = sandbox.run_code("stop('no more')", language="r").error
    assert error is not None
    assert (error.name, "no more" in error.value) == ("ERROR", True)
    assert sandbox.run_code("solve(matrix(c(2, 0, 0, 2), 2))[1, 1]", language="r").error is None  # calls LAPACK


def test_a_client_that_leaves_interrupts_its_cell_of_r(sandbox: Sandbox) -> None:
    context = sandbox.create_code_context(language="r", cwd="/tmp")
    assert text(sandbox.run_code("getwd()", context=context)) == '[1] "/tmp"'
    sandbox.run_code("kept <- 1", context=context)
    with pytest.raises(TimeoutException):
        sandbox.run_code("while (TRUE) {}", context=context, timeout=1)
    assert text(sandbox.run_code("kept", context=context, timeout=20)) == "[1] 1"
    sandbox.restart_code_context(context)
    assert sandbox.run_code("kept", context=context).error is not None
    sandbox.remove_code_context(context)


def test_randomness_of_r_is_renewed_before_the_first_cell_of_a_sandbox(image_interpreter: Interpreter) -> None:
    first, second = image_interpreter.sandbox("first"), image_interpreter.sandbox("second")
    first.run_code("set.seed(1)", language="r")
    seeded = text(first.run_code("runif(1)", language="r"))
    first.run_code("set.seed(1)", language="r")
    # Another token: this memory has become another sandbox.
    assert text(second.run_code("runif(1)", language="r")) != seeded


def test_java_trusts_the_authorities_of_the_system(sandbox: Sandbox) -> None:
    code = """
    var factory = javax.net.ssl.TrustManagerFactory.getInstance("PKIX");
    factory.init((java.security.KeyStore) null);
    ((javax.net.ssl.X509TrustManager) factory.getTrustManagers()[0]).getAcceptedIssuers().length > 50
    """
    execution = sandbox.run_code(code, language="java")
    assert (execution.error, execution.text) == (None, "true")


@pytest.mark.parametrize(
    "name",
    [
        "aiohttp", "bokeh", "bs4", "docx", "imageio", "joblib", "lxml", "matplotlib", "networkx", "nltk", "numpy",
        "openpyxl", "orjson", "pandas", "PIL", "plotly", "pytest", "requests", "scipy.stats", "seaborn",
        "sklearn.linear_model", "sympy", "textblob", "xarray", "xlrd", "yaml",
    ],
)  # fmt: skip
def test_a_library_is_there(sandbox: Sandbox, name: str) -> None:
    assert sandbox.run_code(f"import {name}").error is None


def test_figures_of_plotly_and_bokeh_are_shown(sandbox: Sandbox) -> None:
    (figure,) = sandbox.run_code("import plotly.express as px\npx.line(x=[1, 2], y=[3, 4])").results
    assert "application/vnd.plotly.v1+json" in figure.extra or figure.html is not None
    code = """
    from bokeh.io import output_notebook
    from bokeh.plotting import figure, show
    output_notebook(hide_banner=True)
    plot = figure()
    plot.line([1, 2], [3, 4])
    show(plot)
    """
    execution = sandbox.run_code(code)
    assert execution.error is None
    assert any(result.html is not None for result in execution.results)


def test_text_in_chinese_is_drawn(sandbox: Sandbox) -> None:
    code = (
        "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.title('\u4e2d\u6587 \u65e5\u672c \ud55c')\nplt.show()"
    )
    execution = sandbox.run_code(code)
    assert (execution.error, execution.logs.stderr) == (None, [])  # a missing glyph is a warning
    assert [result.png is not None for result in execution.results] == [True]


def test_a_frame_goes_through_a_workbook(sandbox: Sandbox) -> None:
    code = """
    import pandas as pd
    pd.DataFrame({"n": [1, 2]}).to_excel("/tmp/a.xlsx", index=False)
    pd.read_excel("/tmp/a.xlsx")["n"].sum()
    """
    assert "3" in str(sandbox.run_code(code).text)


def test_whatever_else_is_refused_by_name(image_interpreter: Interpreter) -> None:
    with pytest.raises(Exception, match=r"400.*Language cobol is not installed. Installed kernels: .*ir, java"):
        image_interpreter.sandbox().run_code("1", language="cobol")


@pytest.mark.parametrize("name", ["jupyter server", "[j]upyter-server", "uvicorn main:app"])
def test_servers_killed_by_their_names_come_back(image_interpreter: Interpreter, name: str) -> None:
    """As the clients' own tests do it."""
    sandbox = image_interpreter.sandbox()
    sandbox.run_code("before = 1")
    with suppress(Exception):  # what carries the answer is what dies
        sandbox.run_code(f"kill -9 $(pgrep -f '{name}')", language="bash")
    deadline = time.monotonic() + 30
    while True:
        with suppress(Exception):
            if sandbox.run_code("'before' in globals()", request_timeout=5).text == "False":
                break
        assert time.monotonic() < deadline
        time.sleep(0.1)
    image_interpreter.wait_until_healthy()
    assert {context.language for context in sandbox.list_code_contexts()} >= {"python", "javascript"}


def test_the_start_command_of_e2bs_image_starts_it(image: Path, envs_url: str, tmp_path: Path) -> None:
    command = ("sudo", "--preserve-env", "/root/.jupyter/start-up.sh")
    with running_image(image, tmp_path / "log", envs_url, command) as running:
        sandbox = running.sandbox()
        assert text(sandbox.run_code("import os; os.getcwd(), os.environ['HOME']")) == "('/home/user', '/home/user')"
        assert stdout(sandbox.run_code("id --user --name", language="bash")) == "user\n"
