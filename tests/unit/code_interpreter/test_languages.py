import ast
import os
import subprocess

import pytest

from code_interpreter.languages import (
    BASH,
    JAVA,
    JAVASCRIPT,
    PYTHON,
    TYPESCRIPT,
    EnvironmentChange,
    Language,
    R,
    find_language,
)

AWKWARD = "quote ' \" back\\slash \n line $HOME é"


@pytest.mark.parametrize("name", ["js", "JS", "javascript", " JavaScript "])
def test_a_language_has_several_names(name: str) -> None:
    assert find_language(name) is JAVASCRIPT


def test_an_unknown_language_is_the_kernel_of_that_name() -> None:
    language = find_language("Deno")
    assert (language.name, language.kernel) == ("deno", "deno")
    assert language.change_environment is None


def test_python_code_changes_the_environment_and_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBE_TEST_GONE", "1")
    monkeypatch.setenv("CUBE_TEST_SET", "old")
    assert PYTHON.change_environment is not None
    change = EnvironmentChange(set={"CUBE_TEST_SET": AWKWARD}, remove=["CUBE_TEST_GONE", "CUBE_TEST_NEVER"])
    code = PYTHON.change_environment(change)
    namespace: dict[str, object] = {}
    exec(code, namespace)
    assert os.environ["CUBE_TEST_SET"] == AWKWARD
    assert "CUBE_TEST_GONE" not in os.environ
    assert set(namespace) == {"__builtins__"}
    assert len(ast.parse(code).body) == 1


def test_javascript_code_quotes_what_it_sets() -> None:
    assert JAVASCRIPT.change_environment is not None
    code = JAVASCRIPT.change_environment(EnvironmentChange(set={"A": 'x"\n'}, remove=["B"]))
    assert code == 'Object.assign(process.env, {"A": "x\\"\\n"}); delete process.env["B"]; undefined'


def test_a_change_of_nothing_is_none() -> None:
    assert not EnvironmentChange(set={}, remove=())
    assert EnvironmentChange(set={}, remove=("A",))


@pytest.mark.parametrize(
    ("name", "language"), [("ts", TYPESCRIPT), ("TypeScript", TYPESCRIPT), ("Bash", BASH), ("R", R), ("Java", JAVA)]
)
def test_more_languages_have_names(name: str, language: Language) -> None:
    assert find_language(name) is language


def test_r_code_quotes_what_it_sets() -> None:
    assert R.change_environment is not None
    code = R.change_environment(EnvironmentChange(set={"A": 'x"\\é\n'}, remove=["B", "C"]))
    assert code == r"""invisible({Sys.setenv("A" = "x\"\\é\n"); Sys.unsetenv(c("B", "C"))})"""


def test_java_code_quotes_what_it_sets_as_properties() -> None:
    assert JAVA.change_environment is not None
    removal, addition = JAVA.change_environment(EnvironmentChange(set={"A": 'x"\\é\n'}, remove=["B"])).splitlines()
    assert removal == 'java.util.List.of("B").forEach(System::clearProperty);'
    assert addition == (
        r"""System.getProperties().putAll(java.util.Map.ofEntries(java.util.Map.entry("A", "x\"\\\u00e9\n")));"""
    )


def test_bash_code_quotes_what_it_sets() -> None:
    assert BASH.change_environment is not None
    code = BASH.change_environment(EnvironmentChange(set={"AWKWARD": AWKWARD}, remove=["GONE", "NEVER"]))
    told = subprocess.run(
        ["bash", "-c", f'{code}; printf %s "$AWKWARD"; test -z ${{GONE+set}}'],
        env={"GONE": "1", "PATH": os.environ["PATH"]},
        check=True,
        capture_output=True,
        text=True,
    )
    assert (told.stdout, told.stderr) == (AWKWARD, "")
