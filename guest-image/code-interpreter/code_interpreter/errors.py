"""What can go wrong while serving a request; `app.py` alone knows the status codes."""

from collections.abc import Iterable
from pathlib import Path


class InterpreterError(Exception):
    """Any failure that has an answer for the client; `str()` of it is that answer."""


class ContextNotFound(InterpreterError):
    def __init__(self, context_id: str) -> None:
        super().__init__(f"Context {context_id} not found")


class AmbiguousContext(InterpreterError):
    def __init__(self) -> None:
        super().__init__("Only one of context_id or language can be provided")


class InvalidRequest(InterpreterError):
    """The body is not the JSON that the route asks for."""


class WorkingDirectoryNotFound(InterpreterError):
    def __init__(self, cwd: Path) -> None:
        super().__init__(f"Working directory {cwd} does not exist")


class LanguageNotInstalled(InterpreterError):
    def __init__(self, kernel_name: str, installed: Iterable[str]) -> None:
        super().__init__(f"Language {kernel_name} is not installed. Installed kernels: {', '.join(sorted(installed))}")


class KernelStartFailed(InterpreterError):
    def __init__(self, kernel_name: str, reason: str) -> None:
        super().__init__(f"Failed to start kernel {kernel_name}: {reason}")


class JupyterUnavailable(InterpreterError):
    """The Jupyter server did not answer, or refused what it should accept."""
