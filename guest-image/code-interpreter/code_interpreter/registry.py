"""The contexts of the sandbox, and which of them is the default of its language."""

import asyncio
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from code_interpreter.context import Context
from code_interpreter.errors import AmbiguousContext, ContextNotFound, WorkingDirectoryNotFound
from code_interpreter.jupyter import JupyterServer
from code_interpreter.languages import PYTHON, STARTED_AT_ONCE, find_language


class ContextRegistry:
    """Creates contexts, finds them, and stops them all in the end."""

    def __init__(self, jupyter: JupyterServer, home: Path, inherited: Mapping[str, str]) -> None:
        self._jupyter = jupyter
        self._home = home
        self._inherited = inherited
        self._contexts: dict[str, Context] = {}  # in the order of creation, which clients rely on
        self._defaults: dict[str, str] = {}  # language name -> context id
        self._creating_default: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def start(self) -> None:
        """Create the default contexts that a snapshot of the sandbox is to hold."""
        # Left by a predecessor that was killed: nobody knows their ids any more.
        for kernel_id in await self._jupyter.kernel_ids():
            await self._jupyter.delete_kernel(kernel_id)
        await asyncio.gather(*(self._default(language.name) for language in STARTED_AT_ONCE))

    async def close(self) -> None:
        await asyncio.gather(*(context.close() for context in self._contexts.values()))
        self._contexts.clear()

    async def create(self, language_name: str, cwd: Path) -> Context:
        if not cwd.is_dir():  # noqa: ASYNC240 - one look at a local directory
            raise WorkingDirectoryNotFound(cwd)
        context = await Context.start(self._jupyter, find_language(language_name), cwd, self._inherited)
        self._contexts[context.id] = context
        return context

    async def choose(self, context_id: str | None, language_name: str | None) -> Context:
        """Return the context that a request to execute means, creating the default of a language."""
        if context_id is None:
            return await self._default(language_name or PYTHON.name)
        if language_name is not None:
            raise AmbiguousContext
        return self._find(context_id)

    def all(self) -> list[Context]:
        return list(self._contexts.values())

    async def restart(self, context_id: str) -> None:
        await self._find(context_id).restart()

    async def remove(self, context_id: str) -> None:
        await self._find(context_id).close()
        self._contexts.pop(context_id, None)

    def _find(self, context_id: str) -> Context:
        try:
            return self._contexts[context_id]
        except KeyError:
            raise ContextNotFound(context_id) from None

    async def _default(self, language_name: str) -> Context:
        name = find_language(language_name).name
        async with self._creating_default[name]:
            context = self._contexts.get(self._defaults.get(name, ""))
            if context is None:
                context = await self.create(name, self._home)
                self._defaults[name] = context.id
            return context
