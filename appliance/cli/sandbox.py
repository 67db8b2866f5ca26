"""`cubemastercli sandbox`: what runs, and why what ran has ended."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from appliance.cli.exits import Exit
from appliance.cli.output import local_time, mebibytes, print_fields, print_json, print_table, span, state
from appliance.cli.session import Session
from appliance.clients.master import MasterClient
from appliance.contracts.master import NewConnect, NewPause, NewRollback, SandboxState, SandboxView
from appliance.contracts.node import OnTimeout

app = typer.Typer(no_args_is_help=True, help="Sandboxes: list, look at, pause, resume, roll back, kill.")

_SECRET = frozenset({"access_token", "traffic_token", "rules"})
"""Header rules may hold credentials of their tenant."""
_PAGE = 1000


@app.command("list")
def list_some(
    ctx: typer.Context,
    *,
    states: Annotated[
        list[SandboxState] | None, typer.Option("--state", help="Repeat for more; default: running and paused.")
    ] = None,
    template: Annotated[str | None, typer.Option(help="Only those made from it.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at most, newest first.")] = 100,
) -> None:
    """List sandboxes of all teams."""
    session: Session = ctx.obj
    found = session.call(lambda master: _some(master, states or [], template, limit))
    if session.as_json:
        print_json(session, found, exclude=_SECRET)
        return
    now = datetime.now(UTC)
    print_table(
        session,
        ("SANDBOX", "TEMPLATE", "STATE", "CPU", "MEMORY", "NODE", "STARTED", "ENDS"),
        [
            (
                one.sandbox_id,
                one.alias or one.template_id,
                state(one.state),
                str(one.vcpus),
                mebibytes(one.memory_mib),
                one.node_id,
                local_time(one.started_at),
                one.end_reason or ("paused" if one.paused_at else f"in {span(one.end_at - now)}"),
            )
            for one in found
        ],
        empty="No sandboxes in these states.",
    )


@app.command()
def info(ctx: typer.Context, sandbox_id: Annotated[str, typer.Argument()]) -> None:
    """Show one sandbox, also one that has ended, and why."""
    session: Session = ctx.obj
    one = session.call(lambda master: master.get_sandbox(sandbox_id, ended=True))
    if session.as_json:
        print_json(session, one, exclude=_SECRET)
        return
    print_fields(
        session,
        [
            ("sandbox id", one.sandbox_id),
            ("state", state(one.state)),
            ("end reason", one.end_reason),
            ("end detail", one.end_detail or None),
            ("team id", one.team_id),
            ("template", f"{one.alias} ({one.template_id})" if one.alias else one.template_id),
            ("build", one.build_id),
            ("node", one.node_id),
            ("cpu", str(one.vcpus)),
            ("memory", mebibytes(one.memory_mib)),
            ("disk", mebibytes(one.disk_size_mib)),
            ("volumes", ", ".join(f"{mount.name} at {mount.path}" for mount in one.volumes) or None),
            ("internet", "allowed" if one.allow_internet else "denied"),
            ("guest agent", one.envd_version),
            ("metadata", ", ".join(f"{key}={value}" for key, value in one.metadata.items()) or None),
            ("started", local_time(one.started_at)),
            ("at its timeout", "killed" if one.on_timeout is OnTimeout.KILL else "paused"),
            ("paused", local_time(one.paused_at) if one.paused_at else None),
            ("kept of it", ("disk" if one.filesystem_only else "disk and memory") if one.paused_at else None),
            ("ended" if one.ended_at else "ends", _end(one)),
        ],
    )


@app.command()
def pause(
    ctx: typer.Context,
    sandbox_ids: Annotated[list[str], typer.Argument()],
    *,
    memory: Annotated[bool, typer.Option(help="Without it, the next resume boots from the disk.")] = True,
) -> None:
    """Pause sandboxes: they keep their disk, and give back what else they hold of their node."""
    session: Session = ctx.obj
    for sandbox_id in sandbox_ids:
        session.call(lambda master, one=sandbox_id: master.pause_sandbox(one, NewPause(memory=memory)))  # type: ignore[misc]  # a lambda that keeps its turn's id
        session.note(f"Paused sandbox {sandbox_id}.")


@app.command()
def resume(
    ctx: typer.Context,
    sandbox_id: Annotated[str, typer.Argument()],
    *,
    timeout: Annotated[int, typer.Option(min=1, help="Seconds until it ends, or is paused again.")] = 300,
    memory: Annotated[bool, typer.Option(help="Without it, boot from the disk even where memory was kept.")] = True,
) -> None:
    """Resume a paused sandbox. One that runs is left to run, at least as long."""
    session: Session = ctx.obj
    connected = session.call(
        lambda master: master.connect_sandbox(sandbox_id, NewConnect(timeout_s=timeout, memory=memory))
    )
    if session.as_json:
        print_json(session, connected.sandbox, exclude=_SECRET)
    session.note(f"{'Resumed sandbox' if connected.resumed else 'Already running:'} {sandbox_id}.")


@app.command()
def rollback(
    ctx: typer.Context,
    sandbox_id: Annotated[str, typer.Argument()],
    snapshot: Annotated[str, typer.Argument(help="Id or name; `cubemastercli snapshot list --sandbox ID` shows them.")],
) -> None:
    """Make a running sandbox what it was at a snapshot of its own. What it did since is lost."""
    session: Session = ctx.obj
    back = session.call(lambda master: master.roll_back_sandbox(sandbox_id, NewRollback(snapshot=snapshot)))
    if session.as_json:
        print_json(session, back, exclude=_SECRET)
    session.note(f"Rolled back sandbox {sandbox_id} to {snapshot}.")


@app.command()
def kill(
    ctx: typer.Context,
    sandbox_ids: Annotated[list[str] | None, typer.Argument()] = None,
    *,
    every: Annotated[bool, typer.Option("--all", help="Every sandbox of every team.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before --all.")] = False,
) -> None:
    """Kill sandboxes."""
    session: Session = ctx.obj
    if bool(sandbox_ids) == every:
        session.fail("name the sandboxes to kill, or use --all", Exit.USAGE)
    wanted = sandbox_ids or [one.sandbox_id for one in session.call(lambda master: _some(master, [], None, None))]
    if every and not yes:
        typer.confirm(f"Kill {len(wanted)} sandboxes?", abort=True)
    for sandbox_id in wanted:
        session.call(lambda master, one=sandbox_id: master.kill_sandbox(one))  # type: ignore[misc]
        session.note(f"Killed sandbox {sandbox_id}.")


async def _some(
    master: MasterClient, states: list[SandboxState], template: str | None, limit: int | None
) -> list[SandboxView]:
    """Return up to `limit` sandboxes, all of them for None, whatever a page holds."""
    found: list[SandboxView] = []
    cursor = None
    while limit is None or len(found) < limit:
        size = _PAGE if limit is None else min(_PAGE, limit - len(found))
        page = await master.list_sandboxes(states=states, template=template, limit=size, cursor=cursor)
        found.extend(page.sandboxes)
        cursor = page.next_cursor
        if cursor is None:
            break
    return found


def _end(one: SandboxView) -> str | None:
    """Return when it ended or will; a paused one has no time that runs."""
    if one.ended_at is None and one.paused_at is not None:
        return None
    return local_time(one.ended_at or one.end_at)
