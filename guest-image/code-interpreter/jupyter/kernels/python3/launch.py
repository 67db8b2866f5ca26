"""Runs the Python kernel: ipykernel, without its limit on messages that wait to be sent, and without its open port."""

import sys
from typing import Any

import zmq
from ipykernel import iostream, kernelapp


class InsideIOPubThread(iostream.IOPubThread):  # type: ignore[misc]  # published without types
    """Listens for what forked processes print where the kernel listens. ipykernel does on 127.0.0.1, always.

    What listens there is reached from outside the sandbox, and the clones of a snapshot share the secret that
    such messages begin with.
    """

    def _setup_pipe_in(self) -> None:
        super()._setup_pipe_in()
        pipe = self._pipe_in.socket
        pipe.unbind(pipe.last_endpoint)
        self._pipe_port = pipe.bind_to_random_port(self._interface())

    def _setup_pipe_out(self) -> tuple[zmq.Context[Any], zmq.Socket[bytes]]:
        context, pipe = super()._setup_pipe_out()
        pipe.disconnect(pipe.last_endpoint)
        pipe.connect(f"{self._interface()}:{self._pipe_port}")
        return context, pipe

    def _interface(self) -> str:
        return str(self.socket.last_endpoint.decode().rpartition(":")[0])


class SandboxKernelApp(kernelapp.IPKernelApp):  # type: ignore[misc]  # published without types
    """Output that comes faster than it is read waits. ipykernel drops it, even the word that the cell is over."""

    def init_iopub(self, context: Any) -> None:
        context.setsockopt(zmq.SNDHWM, 0)
        super().init_iopub(context)


if __name__ == "__main__":
    del sys.path[0]  # this folder, which is nothing of the user's
    kernelapp.IOPubThread = InsideIOPubThread
    SandboxKernelApp.launch_instance()
