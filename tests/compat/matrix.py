"""The released clients that the appliance must serve, and the program that each of them runs."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Runtime(StrEnum):
    PYTHON = "python"
    NODE = "node"


@dataclass(frozen=True, slots=True)
class Client:
    """One release of one client, in an environment with exactly these packages."""

    name: str
    version: str
    runtime: Runtime
    packages: tuple[str, ...]
    """Pinned requirements, as pip or npm takes them."""
    program: str
    """A file in `programs/`, written against this generation's own interface."""

    def __str__(self) -> str:
        return f"{self.name} {self.version} ({self.runtime})"


def _python(name: str, version: str, program: str, *more: str) -> Client:
    return Client(name, version, Runtime.PYTHON, (f"{name}=={version}", *more), program)


def _node(name: str, version: str, program: str) -> Client:
    return Client(name, version, Runtime.NODE, (f"{name}@{version}",), program)


CLIENTS = (
    *(
        _python("e2b", version, "python_sdk.py")
        for version in ("1.5.5", "2.0.0", "2.10.0", "2.31.0", "2.45.1", "2.50.0", "2.51.0", "2.63.0")
    ),
    *(_node("e2b", version, "js_sdk.mjs") for version in ("1.13.2", "2.45.0", "2.51.0")),
    _python("e2b-code-interpreter", "1.5.2", "python_interpreter.py"),
    # With the release of e2b that was current: it asks for any 2.x, and later ones break it.
    _python("e2b-code-interpreter", "2.8.1", "python_interpreter.py", "e2b==2.31.0"),
    _python("e2b-code-interpreter", "2.11.5", "python_interpreter.py"),
    _node("@e2b/code-interpreter", "2.8.0", "js_interpreter.mjs"),
    _node("@e2b/cli", "2.19.0", "cli.mjs"),
    _python("openai-agents", "0.24.0", "openai_agents.py", "e2b==2.31.0", "e2b-code-interpreter==2.8.1"),
    _python("smolagents", "1.26.0", "smolagents_executor.py", "e2b-code-interpreter==2.11.5"),
)
