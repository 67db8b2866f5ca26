"""What is known of each language: its names, its kernel, and how code in it sets the environment.

A language that is not in the table is run by the kernel of that name, without environment variables.
"""

import json
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


PYTHON = Language(
    name="python",
    kernel="python3",
    change_environment=_python_environment,
    renew_randomness='__import__("kernel_display.randomness", fromlist=["_"]).renew()',
    # Showing a value, printing, and failing: the first traceback loads a good deal of IPython.
    warm_up=('get_ipython().display_formatter.format({"warm": [1, "up"]}); print("warm")', "1/0"),
)
# Node starts with the first cell, so it has nothing to renew; see javascript_kernel.
JAVASCRIPT = Language(name="javascript", kernel="javascript", change_environment=_javascript_environment)

STARTED_AT_ONCE = (PYTHON, JAVASCRIPT)
_LANGUAGES = {language.name: language for language in STARTED_AT_ONCE}
_ALIASES = {"js": "javascript"}


def find_language(name: str) -> Language:
    """Return the language called `name`, in any case and by any of its names."""
    lowered = name.strip().lower()
    canonical = _ALIASES.get(lowered, lowered)
    return _LANGUAGES.get(canonical) or Language(name=canonical, kernel=canonical)
