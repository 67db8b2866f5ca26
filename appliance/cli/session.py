"""One invocation: where CubeMaster is, how to print, and what an error does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import NoReturn, TypeVar

import typer
from rich.console import Console
from rich.text import Text

from appliance.cli.exits import exit_code, explain
from appliance.clients.master import MasterClient
from appliance.common.http import InternalClient
from appliance.domain.errors import CubeError

_R = TypeVar("_R")


@dataclass(frozen=True)
class Session:
    endpoint: str
    as_json: bool
    out: Console = field(default_factory=lambda: _console(stderr=False))
    err: Console = field(default_factory=lambda: _console(stderr=True))
    """For people: progress, hints and errors, so that standard output stays fit for scripts."""

    def call(self, work: Callable[[MasterClient], Awaitable[_R]]) -> _R:
        """Return what `work` returns, or explain its error and exit."""
        try:
            return asyncio.run(self._connected(work))
        except CubeError as error:
            self.fail(explain(error, endpoint=self.endpoint), exit_code(error))
        except KeyboardInterrupt:
            raise typer.Exit(130) from None

    def note(self, message: str) -> None:
        """Tell a person something that is not the answer."""
        self.err.print(message, soft_wrap=True, markup=False)

    def fail(self, message: str, code: int) -> NoReturn:
        self.err.print(Text("Error:", style="red"), message, soft_wrap=True, markup=False)
        raise typer.Exit(code)

    async def _connected(self, work: Callable[[MasterClient], Awaitable[_R]]) -> _R:
        async with InternalClient(self.endpoint, service="cube-master") as http:
            return await work(MasterClient(http))


_UNBOUND = 500


def _console(*, stderr: bool) -> Console:
    console = Console(stderr=stderr, highlight=False)
    # Whoever reads a pipe or a file wants whole lines, not those of an assumed terminal.
    return console if console.is_terminal else Console(stderr=stderr, highlight=False, width=_UNBOUND)
