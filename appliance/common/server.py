"""One uvicorn server a process: on a Unix socket with a mode, or on a loopback port, announced to systemd."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import uvicorn
from fastapi import FastAPI


class _Announcing(uvicorn.Server):
    """Tells systemd READY=1 once requests are taken, so that `systemctl start` returns no earlier."""

    def __init__(self, config: uvicorn.Config, notify_socket: str | None) -> None:
        super().__init__(config)
        self._notify_socket = notify_socket

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        # What has been imported and built by now stays: 120,000 objects, which every full collection would look at
        # again, for some 100 ms in the middle of somebody's request.
        gc.collect()
        gc.freeze()
        if self.started and self._notify_socket:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify:
                # A leading @ is systemd's notation for the abstract namespace.
                notify.connect(self._notify_socket.replace("@", "\0", 1))
                notify.sendall(b"READY=1")


def serve(
    app: FastAPI,
    *,
    bind: Path | tuple[str, int],
    environment: Mapping[str, str],
    loop: Literal["uvloop", "asyncio"] = "uvloop",
    socket_mode: int = 0o660,
    shutdown_grace_s: int = 10,
) -> int:
    """Serve until SIGTERM and return the process's exit code: 1 where the start-up failed.

    `environment` is the process's, read by `main.py`; only NOTIFY_SOCKET is used.
    """
    listener = _listen(bind, socket_mode)
    config = uvicorn.Config(
        app,
        loop=loop,
        http="httptools",
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        # Callers keep connections to us open; the side that opened one closes it.
        timeout_keep_alive=75,
        timeout_graceful_shutdown=shutdown_grace_s,
        server_header=False,
        date_header=False,
    )
    server = _Announcing(config, environment.get("NOTIFY_SOCKET"))
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(server.serve(sockets=[listener]))
    return 0 if server.started else 1


def _listen(bind: Path | tuple[str, int], mode: int) -> socket.socket:
    if isinstance(bind, Path):
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        bind.parent.mkdir(parents=True, exist_ok=True)
        bind.unlink(missing_ok=True)
        # Created with its final mode: between bind and chmod anybody could connect.
        previous = os.umask(0o777 & ~mode)
        try:
            listener.bind(str(bind))
        finally:
            os.umask(previous)
    else:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(bind)
    listener.listen(2048)
    listener.set_inheritable(True)
    return listener
