"""What is known of each language: its names, its kernel, and how code in it sets the environment.

A language that is not in the table is run by the kernel of that name, without environment variables.
"""

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EnvironmentChange:
    """Variables to set and variables to remove in a kernel's process."""

    set: Mapping[str, str]
    remove: Sequence[str]

    def __bool__(self) -> bool:
        return bool(self.set or self.remove)


@dataclass(frozen=True, slots=True)
class Language:
    name: str
    kernel: str  # name of the kernelspec
    change_environment: Callable[[EnvironmentChange], str] | None = None
    # Run before the first cell of a sandbox: processes restored from one snapshot share the state of their
    # random generators.
    renew_randomness: str | None = None
    # Cells run when the kernel starts, so that a snapshot holds the modules and pages of the paths that cells take.
    warm_up: Sequence[str] = ()


def _python_environment(change: EnvironmentChange) -> str:
    # One expression, no name: the user's namespace stays as it is.
    environ = '__import__("os").environ'
    removals = "".join(f", {environ}.pop({name!r}, None)" for name in change.remove)
    return f"({environ}.update({dict(change.set)!r}){removals}, None)[-1]"


def _javascript_environment(change: EnvironmentChange) -> str:
    removals = "".join(f" delete process.env[{json.dumps(name)}];" for name in change.remove)
    return f"Object.assign(process.env, {json.dumps(dict(change.set))});{removals} undefined"


def _bash_environment(change: EnvironmentChange) -> str:
    # -v: a function of that name is not what is meant.
    settings = [f"export {shlex.quote(f'{name}={value}')}" for name, value in change.set.items()]
    return "; ".join([*settings, *(f"unset -v {shlex.quote(name)}" for name in change.remove)])


def _r_environment(change: EnvironmentChange) -> str:
    def text(value: str) -> str:
        return json.dumps(value, ensure_ascii=False)

    settings = ", ".join(f"{text(name)} = {text(value)}" for name, value in change.set.items())
    calls = [f"Sys.setenv({settings})"] if settings else []
    if change.remove:
        calls.append(f"Sys.unsetenv(c({', '.join(map(text, change.remove))}))")
    return f"invisible({{{'; '.join(calls)}}})"


def _java_environment(change: EnvironmentChange) -> str:
    # A process of Java's cannot change its environment: the variables are its system properties.
    removals = f"java.util.List.of({', '.join(map(json.dumps, change.remove))}).forEach(System::clearProperty);"
    settings = ", ".join(
        f"java.util.Map.entry({json.dumps(name)}, {json.dumps(value)})" for name, value in change.set.items()
    )
    addition = f"System.getProperties().putAll(java.util.Map.ofEntries({settings}));"
    return "\n".join(([removals] if change.remove else []) + ([addition] if settings else []))


PYTHON = Language(
    name="python",
    kernel="python3",
    change_environment=_python_environment,
    renew_randomness='__import__("kernel_display.randomness", fromlist=["_"]).renew()',
    # Showing a value, printing, and failing: the first traceback loads a good deal of IPython.
    warm_up=('get_ipython().display_formatter.format({"warm": [1, "up"]}); print("warm")', "1/0"),
)
# Node and bash start with the first cell, so they have nothing to renew; see process_kernel.
JAVASCRIPT = Language(name="javascript", kernel="javascript", change_environment=_javascript_environment)
# Its own contexts, and so its own variables: a name declared in one language is not there in the other.
TYPESCRIPT = Language(name="typescript", kernel="typescript", change_environment=_javascript_environment)
BASH = Language(name="bash", kernel="bash", change_environment=_bash_environment)
# R seeds its generator when it is first asked for a number.
R = Language(
    name="r",
    kernel="ir",
    change_environment=_r_environment,
    renew_randomness='suppressWarnings(rm(".Random.seed", envir = globalenv()))',
)
JAVA = Language(name="java", kernel="java", change_environment=_java_environment)

STARTED_AT_ONCE = (PYTHON, JAVASCRIPT)
_LANGUAGES = {language.name: language for language in (*STARTED_AT_ONCE, TYPESCRIPT, BASH, R, JAVA)}
_ALIASES = {"js": "javascript", "ts": "typescript"}


def find_language(name: str) -> Language:
    """Return the language called `name`, in any case and by any of its names."""
    lowered = name.strip().lower()
    canonical = _ALIASES.get(lowered, lowered)
    return _LANGUAGES.get(canonical) or Language(name=canonical, kernel=canonical)
