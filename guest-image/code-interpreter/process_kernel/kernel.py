"""The kernel: answers Jupyter's requests, one cell at a time."""

import asyncio
import os
from collections.abc import Mapping
from typing import Any

import zmq
import zmq.asyncio

from process_kernel.languages import Language
from process_kernel.process import CellProcess, Event
from process_kernel.wire import BadMessage, Connection, Message, pack, unpack

_INTERRUPT_GRACE_S = 2.0

# What a client may ask of any kernel and this one has nothing to say to.
_EMPTY_ANSWERS: Mapping[str, Mapping[str, Any]] = {
    "complete_request": {"status": "ok", "matches": [], "cursor_start": 0, "cursor_end": 0, "metadata": {}},
    "inspect_request": {"status": "ok", "found": False, "data": {}, "metadata": {}},
    "history_request": {"status": "ok", "history": []},
    "is_complete_request": {"status": "unknown"},
    "comm_info_request": {"status": "ok", "comms": {}},
}


class ProcessKernel:
    """Owns the sockets, and from the first cell on the process that runs cells.

    That is not started with the kernel: Node.js and bash seed their random generators as they start, and the
    clones of a snapshot that held such a process would all draw the same numbers and the same keys.
    """

    def __init__(self, connection: Connection, language: Language) -> None:
        self._connection = connection
        self._language = language
        context = zmq.asyncio.Context()
        self._context = context
        self._shell = context.socket(zmq.ROUTER)
        self._control = context.socket(zmq.ROUTER)
        self._stdin = context.socket(zmq.ROUTER)
        # Not awaited: output is published from callbacks too, and a PUB socket never waits, it drops.
        self._iopub = zmq.Context(context).socket(zmq.PUB)
        self._iopub.sndhwm = 0  # no limit: what a fast cell prints must wait for the reader, not be dropped
        self._heartbeat = context.socket(zmq.REP)
        self._process: CellProcess | None = None
        self._execution_count = 0
        self._running: Message | None = None  # the request whose cell runs, or the last one that did
        self._is_busy = False
        self._stopping = asyncio.Event()
        self._ending: asyncio.TimerHandle | None = None

    async def run(self) -> None:
        """Serve until a client asks to shut down or the Jupyter server is gone."""
        sockets = {
            "shell": self._shell,
            "control": self._control,
            "stdin": self._stdin,
            "iopub": self._iopub,
            "hb": self._heartbeat,
        }
        for channel, socket in sockets.items():
            socket.linger = 1000  # ms; the reply to a shutdown must still get out
            socket.bind(self._connection.address(channel))
        parent = os.pidfd_open(os.getppid())
        loop = asyncio.get_running_loop()
        loop.add_reader(parent, self._stopping.set)
        tasks = [
            asyncio.create_task(self._serve(self._shell)),
            asyncio.create_task(self._serve(self._control)),
            asyncio.create_task(self._beat()),
            asyncio.create_task(self._stopping.wait()),
        ]
        try:
            # A serving task ends only by a defect of its own, which must not leave half a kernel behind.
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            loop.remove_reader(parent)
            os.close(parent)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if self._process is not None:
                await self._process.close()
            for socket in sockets.values():
                socket.close()
            self._context.term()

    async def _beat(self) -> None:
        while True:
            await self._heartbeat.send_multipart(await self._heartbeat.recv_multipart())

    async def _serve(self, socket: zmq.asyncio.Socket) -> None:
        while True:
            try:
                request = unpack(await socket.recv_multipart(), self._connection.key)
            except BadMessage:
                continue
            self._publish(request, "status", {"execution_state": "busy"})
            answer = await self._answer(request)
            if answer is not None:
                reply = request.answer(request.type.replace("_request", "_reply"), answer)
                await socket.send_multipart(pack(reply, self._connection.key))
            self._publish(request, "status", {"execution_state": "idle"})
            if request.type == "shutdown_request":
                self._stopping.set()

    async def _answer(self, request: Message) -> Mapping[str, Any] | None:
        """Do what is asked; return the content of the reply, or nothing to a request that is not known."""
        match request.type:
            case "execute_request":
                return await self._execute(request)
            case "kernel_info_request":
                return self._kernel_info()
            case "interrupt_request":
                self._interrupt()
                return {"status": "ok"}
            case "shutdown_request":
                return {"status": "ok", "restart": bool(request.content.get("restart"))}
        return _EMPTY_ANSWERS.get(request.type)

    def _kernel_info(self) -> Mapping[str, Any]:
        return {
            "status": "ok",
            "protocol_version": "5.3",
            "implementation": "process_kernel",
            "implementation_version": "1.0",
            "banner": f"{self._language.info['name']} in {self._language.program}",
            "language_info": self._language.info,
        }

    async def _execute(self, request: Message) -> Mapping[str, Any]:
        code = str(request.content["code"])
        silent = bool(request.content.get("silent"))
        if not silent:
            self._execution_count += 1
            self._publish(request, "execute_input", {"code": code, "execution_count": self._execution_count})
        self._running = request
        error = await self._run_cell(code, request, silent=silent)
        count = {"execution_count": self._execution_count}
        if error is None:
            return {"status": "ok", "user_expressions": {}, "payload": [], **count}
        return {"status": "error", **error, **count}

    async def _run_cell(self, code: str, request: Message, *, silent: bool) -> Mapping[str, Any] | None:
        """Run a cell and publish its events; return the error that ended it, if one did."""
        error: Mapping[str, Any] | None = None
        if self._process is None or self._process.returncode is not None:
            try:
                self._process = await self._language.start(self._publish_stream)
            except FileNotFoundError as missing:
                error = _failure("ProgramNotFound", f"{missing.filename} is not installed in this image")
                self._publish(request, "error", error)
                return error
        process = self._process
        self._is_busy = True
        try:
            async for event in process.run(code, 0 if silent else self._execution_count):
                match event["type"]:
                    case "done":
                        return error
                    case "stream":
                        self._publish_stream(event)
                    case "display":
                        self._publish(request, "display_data", {"data": event["data"], "metadata": {}})
                    case "result" if not silent:
                        content = {"data": event["data"], "metadata": {}}
                        content["execution_count"] = self._execution_count
                        self._publish(request, "execute_result", content)
                    case "error":
                        error = {key: event[key] for key in ("ename", "evalue", "traceback")}
                        self._publish(request, "error", error)
            error = await self._bury(process)
            self._publish(request, "error", error)
            return error
        finally:
            self._is_busy = False
            if self._ending is not None:
                self._ending.cancel()
                self._ending = None

    async def _bury(self, process: CellProcess) -> Mapping[str, Any]:
        """Free what an ended process held and return what its end means for the cell."""
        interrupted = self._ending is not None
        status = await process.close()
        self._process = None
        if interrupted:
            name = "KeyboardInterrupt"
            value = f"{self._language.program} did not heed the interrupt and was ended; its variables are lost"
        else:
            name = "ProcessExit"
            value = f"{self._language.program} ended with status {status}; its variables are lost"
        return _failure(name, value)

    def _interrupt(self) -> None:
        """Interrupt the cell; end the process if it goes on, as Node.js may after an await."""
        if self._process is None or not self._is_busy:
            return
        self._process.interrupt()
        if self._ending is None:
            loop = asyncio.get_running_loop()
            self._ending = loop.call_later(_INTERRUPT_GRACE_S, self._process.kill)

    def _publish_stream(self, event: Event) -> None:
        if self._running is not None:
            self._publish(self._running, "stream", {"name": event["name"], "text": event["text"]})

    def _publish(self, parent: Message, message_type: str, content: Mapping[str, Any]) -> None:
        message = parent.answer(message_type, content)
        frames = [message_type.encode(), *pack(message, self._connection.key)[len(message.identities) :]]
        self._iopub.send_multipart(frames)


def _failure(name: str, value: str) -> Mapping[str, Any]:
    return {"ename": name, "evalue": value, "traceback": [f"{name}: {value}"]}
