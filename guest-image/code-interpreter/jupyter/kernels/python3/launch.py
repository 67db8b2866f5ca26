"""Runs the Python kernel: ipykernel, without its limit on messages that wait to be sent."""

import sys
from typing import Any

import zmq
from ipykernel.kernelapp import IPKernelApp


class SandboxKernelApp(IPKernelApp):  # type: ignore[misc]
    """Output that comes faster than it is read waits. ipykernel drops it, even the word that the cell is over."""

    def init_iopub(self, context: Any) -> None:
        context.setsockopt(zmq.SNDHWM, 0)
        super().init_iopub(context)


if __name__ == "__main__":
    del sys.path[0]  # this folder, which is nothing of the user's
    SandboxKernelApp.launch_instance()
