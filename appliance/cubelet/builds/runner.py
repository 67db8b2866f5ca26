"""Runs steps in the guest, one by one: each takes the context of the one before it and returns its own."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from datetime import timedelta

from appliance.clients.guest import GuestClient
from appliance.cubelet.builds import accounts
from appliance.cubelet.builds.accounts import script
from appliance.cubelet.builds.context import StepContext
from appliance.cubelet.builds.copying import GZIP_MAGIC, CopyPlan, plan_copy
from appliance.cubelet.builds.expansion import expand, has_references
from appliance.cubelet.builds.progress import Build
from appliance.cubelet.builds.shell import GuestShell
from appliance.cubelet.builds.steps import Action, Copy, Env, Run, User, Workdir
from appliance.domain.errors import CubeError, GuestFailure, GuestRefused

FileSource = Callable[[str, str, int], AbstractAsyncContextManager[AsyncIterator[bytes]]]
"""Opens the files of a COPY: template id, hash, most bytes."""

_MAX_ENVIRONMENT_BYTES = 1 << 20


class StepRunner:
    def __init__(self, build: Build, guest: GuestClient, files: FileSource, *, deadline: timedelta) -> None:
        self._build = build
        self._guest = guest
        self._files = files
        self._deadline = deadline
        self._shell = GuestShell(build, guest)

    async def provision(self) -> None:
        """Make the user that E2B's templates have, and say what the image lacks."""
        done = await self._shell.script(
            script(accounts.PROVISION, "provision"),
            doing="preparing the image (it needs a shell, /bin/sh)",
            prefix="base",
            deadline=self._deadline,
        )
        if done.tail and done.tail[-1].startswith(accounts.MISSING):
            lacking = done.tail[-1].removeprefix(accounts.MISSING)
            self._build.say(f"the image has no {', '.join(lacking.split())}; what needs them will fail", level="warn")

    async def run(self, action: Action, context: StepContext, *, prefix: str) -> StepContext:
        """Do one step. Raises GuestFailure with a text for its author, or InvalidRequest."""
        match action:
            case Run():
                await self._shell.command(
                    action.command, context, prefix=prefix, deadline=self._deadline, user=action.user
                )
                return context
            case Copy():
                await self._copy(action, context, prefix)
                return context
            case Env():
                return await self._env(action, context)
            case Workdir():
                return await self._workdir(action, context, prefix)
            case User():
                return await self._user(action, context, prefix)

    async def _env(self, step: Env, context: StepContext) -> StepContext:
        values = await self._expanded([value for _, value in step.variables], context)
        names = [name for name, _ in step.variables]
        return context.with_env(dict(zip(names, values, strict=True)))

    async def _workdir(self, step: Workdir, context: StepContext, prefix: str) -> StepContext:
        (path,) = await self._expanded([step.path], context)
        if not path.startswith("/"):
            path = f"{context.workdir}/{path}"
        done = await self._shell.script(
            script(accounts.MAKE_WORKDIR, "workdir", path, context.user),
            doing=f"making the directory '{path}'",
            prefix=prefix,
            deadline=self._deadline,
        )
        if not done.tail or not done.tail[-1].startswith("/"):
            raise GuestFailure(f"the guest did not say where the directory '{path}' is")
        return context.with_workdir(done.tail[-1])

    async def _user(self, step: User, context: StepContext, prefix: str) -> StepContext:
        await self._shell.script(
            script(accounts.ADD_USER, "user", step.name, "sudo" if step.sudo else ""),
            doing=f"making the user '{step.name}'",
            prefix=prefix,
            deadline=self._deadline,
        )
        return context.with_user(step.name)

    async def _copy(self, step: Copy, context: StepContext, prefix: str) -> None:
        (destination,) = await self._expanded([step.destination], context)
        plan = plan_copy(step, destination, context)
        gzipped = await self._upload(step, plan)
        doing = f"copying '{step.source}' to '{step.destination}'"
        try:
            for argv in (plan.unpack(gzipped=gzipped), plan.place()):
                await self._shell.script(argv, doing=doing, prefix=prefix, deadline=self._deadline)
        finally:
            await self._shell.script(plan.remove(), doing="cleaning up", prefix=prefix, deadline=self._deadline)

    async def _upload(self, step: Copy, plan: CopyPlan) -> bool:
        """Stream the tar into the guest and return whether it is gzipped."""
        request = self._build.request
        # A tar that is larger than the disk cannot be unpacked on it.
        most = self._build.disk_size_mib * 2**20
        async with self._files(request.template_id, step.files_hash, most) as chunks:
            first = await anext(chunks, b"")
            broken: list[CubeError] = []
            content = _chained(first, chunks, broken)
            try:
                await self._guest.upload(plan.tar, content, user="root", deadline=self._deadline)
            except GuestFailure as error:
                if broken:
                    raise broken[0] from error
                if not isinstance(error, GuestRefused):
                    raise
                if error.code == "507":
                    size_mib = self._build.disk_size_mib
                    message = f"copying '{step.source}': the template's disk of {size_mib} MiB is full"
                    raise GuestFailure(message) from error
                raise
        return first.startswith(GZIP_MAGIC)

    async def _expanded(self, values: list[str], context: StepContext) -> list[str]:
        if not any(has_references(value) for value in values):
            return values
        variables = await self._environment(context)
        return [expand(value, variables) for value in values]

    async def _environment(self, context: StepContext) -> dict[str, str]:
        """Return what a command would see: the guest adds PATH and HOME to what the steps have set."""
        done = await self._guest.run(
            ("env", "-0"),
            deadline=self._deadline,
            user=context.user,
            envs=context.env,
            max_output_bytes=_MAX_ENVIRONMENT_BYTES,
        )
        if done.exit_code != 0:
            raise GuestFailure(f"the guest's `env -0` failed: {done.stderr.strip()[:200]}")
        return dict(entry.split("=", 1) for entry in done.stdout.split("\0") if "=" in entry)


async def _chained(first: bytes, rest: AsyncIterable[bytes], broken: list[CubeError]) -> AsyncIterator[bytes]:
    """Yield all pieces. Why they end early is put into `broken`: the HTTP client would hide it."""
    if first:
        yield first
    try:
        async for chunk in rest:
            yield chunk
    except CubeError as error:
        broken.append(error)
        raise
