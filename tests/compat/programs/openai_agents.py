"""The OpenAI Agents SDK's own client of E2B: create, exec, files, pause, resume, snapshot, kill. No model is called."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path
from typing import Any

from agents.extensions.sandbox.e2b import E2BSandboxClient, E2BSandboxClientOptions
from agents.sandbox.manifest import Manifest
from checks import check, run_all


async def _with_session(work: Any, **options: Any) -> None:
    client = E2BSandboxClient()
    session = await client.create(
        manifest=Manifest(),
        options=E2BSandboxClientOptions(sandbox_type="e2b", template="base", timeout=180, **options),
    )
    try:
        await session.start()
        await work(client, session)
    finally:
        await client.delete(session)


@check
def a_session_runs_commands() -> None:
    async def work(_: Any, session: Any) -> None:
        assert await session.running()
        done = await session.exec("echo", "from the agent")
        assert (done.exit_code, done.stdout) == (0, b"from the agent\n")

    asyncio.run(_with_session(work))


@check
def a_session_reads_and_writes_its_workspace() -> None:
    async def work(_: Any, session: Any) -> None:
        await session.write(Path("note.txt"), io.BytesIO(b"written"))
        assert (await session.read(Path("note.txt"))).read() == b"written"

    asyncio.run(_with_session(work))


@check
def a_session_pauses_and_resumes_with_its_files() -> None:
    async def use() -> None:
        client = E2BSandboxClient()
        options = E2BSandboxClientOptions(sandbox_type="e2b", template="base", timeout=180, pause_on_exit=True)
        session = await client.create(manifest=Manifest(), options=options)
        await session.start()
        await session.write(Path("note.txt"), io.BytesIO(b"kept"))
        await session.stop()
        await session.shutdown()
        resumed = await client.resume(session.state)
        try:
            await resumed.start()
            assert (await resumed.read(Path("note.txt"))).read() == b"kept"
        finally:
            resumed.state.pause_on_exit = False
            await client.delete(resumed)

    asyncio.run(use())


@check
def a_workspace_is_kept_as_a_snapshot() -> None:
    async def work(_: Any, session: Any) -> None:
        await session.write(Path("note.txt"), io.BytesIO(b"in the snapshot"))
        reference = (await session.persist_workspace()).read()
        assert reference
        await session.write(Path("note.txt"), io.BytesIO(b"later"))
        await session.hydrate_workspace(io.BytesIO(reference))
        assert (await session.read(Path("note.txt"))).read() == b"in the snapshot"

    asyncio.run(_with_session(work, workspace_persistence="snapshot"))


@check
def a_workspace_is_kept_as_a_tar() -> None:
    async def work(_: Any, session: Any) -> None:
        await session.write(Path("note.txt"), io.BytesIO(b"in the tar"))
        archive = (await session.persist_workspace()).read()
        await session.write(Path("note.txt"), io.BytesIO(b"later"))
        await session.hydrate_workspace(io.BytesIO(archive))
        assert (await session.read(Path("note.txt"))).read() == b"in the tar"

    asyncio.run(_with_session(work))


if __name__ == "__main__":
    run_all()
