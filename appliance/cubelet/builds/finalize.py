"""The end of a build: marks of E2B, the start command, and the wait until it is ready."""

from __future__ import annotations

import asyncio
import shlex
from dataclasses import dataclass
from datetime import timedelta

from appliance.clients.guest import GuestClient
from appliance.contracts.node import BuildRequest
from appliance.cubelet.builds.accounts import script
from appliance.cubelet.builds.context import StepContext, environment
from appliance.cubelet.builds.progress import Build
from appliance.cubelet.builds.shell import GuestShell
from appliance.cubelet.services.template_meta import Readiness, StartCommand
from appliance.domain.errors import GuestFailure, GuestRefused
from appliance.storage.base import ImageConfig

_READY_INTERVAL_S = 2
_PROBE_INTERVAL_S = 0.25
_PLAIN_SHELLS = frozenset({"sh", "bash", "ash", "python3", "node"})

DEFAULT_READY = "sleep 20"
"""E2B's, for a start command without a ready command: long enough for most to come up."""

_CONFIGURE = r"""
set -e
printf 'ENV_ID=%s\nTEMPLATE_ID=%s\nBUILD_ID=%s\n' "$1" "$1" "$2" >/.e2b
mkdir -p /code
# Directories alone: a changed mode copies a file onto the template's disk, and names are what must be open to change.
for tree in /usr/local /code; do
    [ -d $tree ] || continue
    if command -v find >/dev/null 2>&1; then
        find $tree -xdev -type d ! -perm 777 -exec chmod 777 {} +
    else
        chmod 777 $tree
    fi
done
"""


@dataclass(frozen=True, slots=True)
class Startup:
    """What a template starts, and when it counts as started."""

    start: StartCommand | None
    ready: Readiness


def startup_of_image(request: BuildRequest, config: ImageConfig) -> Startup:
    """Return what an image that is taken as it is starts: the caller's command, else its own."""
    argv = start_command(request.start_cmd, config)
    return Startup(
        start=StartCommand(
            argv=argv, user=config.user or None, env=environment(config), working_dir=config.working_dir or None
        )
        if argv is not None
        else None,
        ready=Readiness(command=request.ready_cmd, probe_port=request.probe_port),
    )


def startup_of_steps(request: BuildRequest, context: StepContext, inherited: Startup) -> Startup:
    """Return what a template of E2B's builder starts: its own commands, or those of the template it is built from."""
    if request.start_cmd is None and request.ready_cmd is None and request.probe_port is None:
        return inherited
    user, env, working_dir = context.user, dict(context.env), context.workdir
    start = None
    if request.start_cmd is not None:
        argv = ("/bin/bash", "-l", "-c", request.start_cmd)
        start = StartCommand(argv=argv, user=user, env=env, working_dir=working_dir)
    command = request.ready_cmd
    if command is None and request.probe_port is None:
        command = DEFAULT_READY
    ready = Readiness(command=command, user=user, env=env, working_dir=working_dir, probe_port=request.probe_port)
    return Startup(start, ready)


def start_command(start_cmd: str | None, config: ImageConfig) -> tuple[str, ...] | None:
    """Return what to run: the caller's shell command, else the image's own entrypoint and command, else nothing.

    An image whose command is a bare shell, as most base images have it, has nothing to start.
    """
    if start_cmd is not None:
        return ("/bin/bash", "-l", "-c", start_cmd)
    argv = (*config.entrypoint, *config.cmd)
    if not argv or (len(argv) == 1 and argv[0].rsplit("/", 1)[-1] in _PLAIN_SHELLS):
        return None
    return argv


@dataclass(frozen=True, slots=True)
class FinalizeDeadlines:
    command: timedelta
    ready: timedelta


class Finalizer:
    def __init__(self, build: Build, guest: GuestClient, deadlines: FinalizeDeadlines) -> None:
        self._build = build
        self._guest = guest
        self._deadlines = deadlines
        self._shell = GuestShell(build, guest)

    async def configure(self) -> None:
        """Leave the marks that E2B's templates have."""
        request = self._build.request
        await self._shell.script(
            script(_CONFIGURE, "configure", request.template_id, request.build_id),
            doing="finishing the template's files",
            prefix="finalize",
            deadline=self._deadlines.ready,
        )

    async def start(self, startup: Startup, *, may_fail: bool) -> None:
        """Start what the template runs and return once it is ready; it goes on afterwards."""
        if startup.start is None:
            await self._until_ready(startup.ready)
            return
        self._build.say(f"starting {shlex.join(startup.start.argv)}")
        started = asyncio.Event()
        running = asyncio.create_task(self._follow(startup.start, started, may_fail=may_fail))
        ready = asyncio.create_task(self._until_ready_after(started, startup.ready))
        try:
            await asyncio.wait((running, ready), return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                # A start command may end: it has then set something up. One that fails has not.
                running.result()
            await ready
        finally:
            for task in (running, ready):
                # Ends our listening, not the command.
                task.cancel()
            await asyncio.gather(running, ready, return_exceptions=True)

    async def _follow(self, start: StartCommand, started: asyncio.Event, *, may_fail: bool) -> None:
        try:
            done = await self._shell.follow(
                start.argv,
                prefix="start",
                # None: the guest would kill it when the time is up.
                deadline=None,
                user=start.user,
                envs=start.env,
                cwd=start.working_dir,
                on_start=started.set,
            )
        except GuestRefused as error:
            raise GuestFailure(f"start command failed: {error.code}: {error.detail}") from error
        if done.exit_code != 0 and not may_fail:
            raise GuestFailure(f"start command failed: exit status {done.exit_code}")
        self._build.say(f"the start command ended with exit status {done.exit_code}", level="warn")

    async def _until_ready_after(self, started: asyncio.Event, ready: Readiness) -> None:
        try:
            async with asyncio.timeout(self._deadlines.command.total_seconds()):
                await started.wait()
        except TimeoutError as error:
            raise GuestFailure("the guest did not start the start command in time") from error
        await self._until_ready(ready)

    async def _until_ready(self, ready: Readiness) -> None:
        deadline = self._deadlines.ready.total_seconds()
        try:
            async with asyncio.timeout(deadline):
                if ready.probe_port is not None:
                    self._build.say(f"waiting for an HTTP answer on port {ready.probe_port}")
                    await self._until_answering(ready.probe_port)
                if ready.command is not None:
                    self._build.say(f"waiting for: {ready.command}")
                    await self._until_success(ready, ready.command)
        except TimeoutError as error:
            what = f"port {ready.probe_port}" if ready.command is None else f"`{ready.command}`"
            raise GuestFailure(
                f"the template did not become ready within {deadline:g} s: {what} never succeeded"
            ) from error

    async def _until_answering(self, port: int) -> None:
        """Return when a service answers below 500. Nobody tells us when a stranger's service is up, so ask."""
        while True:
            status = await self._guest.http_status(port, "/health", deadline=timedelta(seconds=10))
            if status is not None and status < 500:
                return
            await asyncio.sleep(_PROBE_INTERVAL_S)

    async def _until_success(self, ready: Readiness, command: str) -> None:
        """Run a ready command every two seconds, as E2B does, until it exits 0."""
        while True:
            done = await self._guest.run(
                ("/bin/bash", "-l", "-c", command),
                # One try may take all the time there is: `sleep 300` is a ready command too.
                deadline=self._deadlines.ready,
                user=ready.user,
                envs=ready.env,
                cwd=ready.working_dir,
            )
            if done.exit_code == 0:
                return
            await asyncio.sleep(_READY_INTERVAL_S)
