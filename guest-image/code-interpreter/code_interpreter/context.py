"""One context: a kernel, the connection to it, and the executions that take their turn on it."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

from code_interpreter.environment import SandboxVariables
from code_interpreter.errors import JupyterUnavailable, KernelStartFailed
from code_interpreter.events import EndOfExecution, ExecutionFailed, KeepAlive
from code_interpreter.execution import KEEP_ALIVE_S, Emit, Execution, Loss
from code_interpreter.jupyter import JupyterServer, KernelConnection
from code_interpreter.languages import EnvironmentChange, Language
from code_interpreter.messages import Message, execute_request, kernel_was_lost, parent_id

log = logging.getLogger(__name__)

_INTERRUPT_ATTEMPTS = 5
_INTERRUPT_WAIT_S = 1.0
_WARM_UP_DEADLINE_S = 60.0


class Context:
    """Runs code in one kernel, one cell at a time.

    A task reads the connection as long as it lasts and hands messages to the execution whose turn it is.
    Messages of no execution, such as output of threads left behind, are dropped.
    """

    def __init__(
        self, jupyter: JupyterServer, kernel_id: str, language: Language, cwd: Path, inherited: Mapping[str, str]
    ) -> None:
        self.id = kernel_id
        self.language = language
        self.cwd = cwd
        self._jupyter = jupyter
        self._inherited = inherited
        self._turn = asyncio.Lock()
        self._connecting = asyncio.Lock()
        self._connection: KernelConnection | None = None
        self._reader: asyncio.Task[None] | None = None
        self._execution: Execution | None = None
        self._given: SandboxVariables | None = None  # None: the kernel's process is new

    @classmethod
    async def start(
        cls, jupyter: JupyterServer, language: Language, cwd: Path, inherited: Mapping[str, str]
    ) -> "Context":
        """Start a kernel and return its context, ready for the first cell.

        `inherited` is the environment that kernels start with.
        """
        kernel_id = await jupyter.start_kernel(language.kernel, cwd)
        context = cls(jupyter, kernel_id, language, cwd, inherited)
        try:
            connection = await context._connected()
            for code in language.warm_up:
                await context._warm_up(connection, code)
        except BaseException:
            await context.close()
            raise
        return context

    async def close(self) -> None:
        """Stop the kernel and free what belongs to it. Safe to repeat."""
        self._lose(Loss.RESTARTED)
        async with self._connecting:
            await self._disconnect()
            with suppress(JupyterUnavailable):
                await self._jupyter.delete_kernel(self.id)

    async def restart(self) -> None:
        """Replace the kernel by a new one of the same id. What is running ends as `ContextRestarting`.

        Does not wait for its turn: it is how a user gets rid of a cell that cannot be interrupted. Cells that
        wait for theirs run in the new kernel.
        """
        async with self._connecting:
            self._lose(Loss.RESTARTED)
            await self._disconnect()
            await self._jupyter.restart_kernel(self.id)
        await self._connected()

    async def execute(self, code: str, *, sandbox: SandboxVariables, variables: Mapping[str, str], emit: Emit) -> None:
        """Run `code` and emit what it produces. Cancelling, or an error of `emit`, interrupts the code.

        `variables` are set for this cell alone, over those of the sandbox.
        """
        async with self._taking_turns(emit):
            try:
                await self._execute(code, sandbox, variables, emit)
            except JupyterUnavailable as error:
                await emit(ExecutionFailed("WebSocketError", str(error), ""))
            await emit(EndOfExecution())

    @asynccontextmanager
    async def _taking_turns(self, emit: Emit) -> AsyncIterator[None]:
        while True:
            try:
                async with asyncio.timeout(KEEP_ALIVE_S):
                    await self._turn.acquire()
                    break
            except TimeoutError:
                await emit(KeepAlive())
        try:
            yield
        finally:
            self._turn.release()

    async def _execute(self, code: str, sandbox: SandboxVariables, variables: Mapping[str, str], emit: Emit) -> None:
        connection = await self._connected()
        await self._prepare(connection, sandbox, variables)
        with self._executing(connection, execute_request(code)) as execution:
            await connection.send(execution.request)
            try:
                await execution.follow(emit)
            except BaseException:
                await self._interrupt(execution)
                raise
            finally:
                if variables and self._connection is connection:
                    await self._change_environment(connection, self._undoing(variables, sandbox))

    @contextmanager
    def _executing(self, connection: KernelConnection, request: Message) -> Iterator[Execution]:
        # Nothing is awaited between the check and the assignment: whatever ends the connection from here on
        # finds the execution and tells it.
        if self._connection is not connection:
            raise JupyterUnavailable("The connection to the kernel was lost")
        self._execution = Execution(request)
        try:
            yield self._execution
        finally:
            self._execution = None

    async def _interrupt(self, execution: Execution) -> None:
        """Interrupt until the code ends. One attempt may be too early: an idle kernel ignores it."""
        for _ in range(_INTERRUPT_ATTEMPTS):
            with suppress(JupyterUnavailable):
                await self._jupyter.interrupt_kernel(self.id)
            if await execution.finished_within(_INTERRUPT_WAIT_S):
                return
        log.warning("kernel %s does not heed interrupts", self.id)

    async def _warm_up(self, connection: KernelConnection, code: str) -> None:
        with self._executing(connection, execute_request(code, silent=True)) as execution:
            await connection.send(execution.request)
            if not await execution.finished_within(_WARM_UP_DEADLINE_S):
                raise KernelStartFailed(self.language.kernel, "it does not answer")

    async def _prepare(
        self, connection: KernelConnection, sandbox: SandboxVariables, variables: Mapping[str, str]
    ) -> None:
        """Give the kernel the variables of the sandbox, if it has not got them yet, and those of the cell.

        Nothing is waited for: the kernel takes up requests in order.
        """
        given = self._given
        change = EnvironmentChange(set=variables, remove=())
        if given is None or given.generation != sandbox.generation:
            if self.language.renew_randomness is not None:
                await connection.send(execute_request(self.language.renew_randomness, silent=True))
            stale = set() if given is None else given.values.keys() - sandbox.values.keys() - variables.keys()
            undone = self._undoing(stale, sandbox)
            change = EnvironmentChange({**undone.set, **sandbox.values, **variables}, undone.remove)
        await self._change_environment(connection, change)
        self._given = sandbox

    def _undoing(self, names: Iterable[str], sandbox: SandboxVariables) -> EnvironmentChange:
        """Return what takes variables back: to the sandbox's value, or the inherited one, or none."""
        lasting = {**self._inherited, **sandbox.values}
        return EnvironmentChange(
            set={name: lasting[name] for name in names if name in lasting},
            remove=tuple(name for name in names if name not in lasting),
        )

    async def _change_environment(self, connection: KernelConnection, change: EnvironmentChange) -> None:
        if change and self.language.change_environment is not None:
            await connection.send(execute_request(self.language.change_environment(change), silent=True))

    async def _connected(self) -> KernelConnection:
        """Return the connection, made anew if it was lost; the kernel answers on it."""
        async with self._connecting:
            if self._connection is None:
                await self._disconnect()
                self._connection = await self._jupyter.connect(self.id)
                self._reader = asyncio.create_task(self._read(self._connection))
            return self._connection

    async def _disconnect(self) -> None:
        self._connection = None
        self._given = None
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.wait([self._reader])
            self._reader = None

    async def _read(self, connection: KernelConnection) -> None:
        loss = Loss.DISCONNECTED
        try:
            async for message in connection.messages():
                if kernel_was_lost(message):
                    loss = Loss.RESTARTED
                    break
                if self._execution is not None and parent_id(message) == self._execution.id:
                    self._execution.deliver(message)
        finally:
            if self._connection is connection:
                self._connection = None
                self._given = None
                self._lose(loss)
            await connection.close()

    def _lose(self, loss: Loss) -> None:
        if self._execution is not None:
            self._execution.deliver(loss)
