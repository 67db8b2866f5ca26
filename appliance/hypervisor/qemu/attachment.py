"""What this process holds of one running QEMU: its pidfd, its control connection and its console."""

from __future__ import annotations

import asyncio
from pathlib import Path

from appliance.hypervisor.console import ConsoleLog
from appliance.hypervisor.process import ProcessWatch
from appliance.hypervisor.qemu.qmp import QmpClient

MONITOR_SOCKET = "qmp.sock"
CONSOLE_SOCKET = "console.sock"
CONSOLE_LOG = "console.log"


class Attachment:
    """Can be dropped and made again at any time, also by a later Cubelet: the machine does not notice."""

    def __init__(self, watch: ProcessWatch, runtime_dir: Path) -> None:
        self.watch = watch
        self._runtime_dir = runtime_dir
        self._qmp: QmpClient | None = None
        self._console: ConsoleLog | None = None
        # QEMU serves one client a socket, so a second connection would wait for the first for ever.
        self._connecting = asyncio.Lock()

    async def qmp(self) -> QmpClient:
        """Return the control connection, made on first use. Waits as long as QEMU takes to answer."""
        async with self._connecting:
            if self._qmp is None:
                self._qmp = await QmpClient.connect(self._runtime_dir / MONITOR_SOCKET)
            return self._qmp

    async def follow_console(self) -> None:
        """Copy the console into its log from now on. A machine is worth more than its console: never fails."""
        async with self._connecting:
            if self._console is None:
                try:
                    self._console = await ConsoleLog.follow(
                        self._runtime_dir / CONSOLE_SOCKET, self._runtime_dir / CONSOLE_LOG
                    )
                except OSError:
                    return

    async def wait_exit(self) -> None:
        """Return once the process has ended and its last words are in the console log."""
        await self.watch.wait()
        if self._console is not None:
            await self._console.drained()

    async def kill(self) -> None:
        """End the process and wait until it is gone."""
        self.watch.kill()
        await self.wait_exit()

    def close(self) -> None:
        self.watch.close()
        if self._qmp is not None:
            self._qmp.close()
        if self._console is not None:
            self._console.close()


def remove_sockets(runtime_dir: Path) -> None:
    """Delete what a machine that has ended left in its directory, except its console log. Safe to repeat."""
    for name in (MONITOR_SOCKET, CONSOLE_SOCKET):
        (runtime_dir / name).unlink(missing_ok=True)
