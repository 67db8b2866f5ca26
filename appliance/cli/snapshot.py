"""`cubemastercli snapshot`: what was kept of running sandboxes."""

from __future__ import annotations

from typing import Annotated

import typer

from appliance.cli.output import local_time, print_json, print_table
from appliance.cli.session import Session
from appliance.clients.master import MasterClient
from appliance.contracts.master import SnapshotView

app = typer.Typer(no_args_is_help=True, help="Snapshots of sandboxes: list. `tpl delete` deletes one by its id.")

_PAGE = 100


@app.command("list")
def list_some(
    ctx: typer.Context,
    *,
    sandbox: Annotated[str | None, typer.Option(help="Only those taken of it.")] = None,
    name: Annotated[str | None, typer.Option(help="Only those of this name.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at most, newest first.")] = 100,
) -> None:
    """List snapshots of all teams."""
    session: Session = ctx.obj
    found = session.call(lambda master: _some(master, sandbox, name, limit))
    if session.as_json:
        print_json(session, found)
        return
    print_table(
        session,
        ("SNAPSHOT", "TEAM", "SANDBOX", "TAKEN"),
        [(one.snapshot_id, one.team_slug, one.sandbox_id, local_time(one.taken_at)) for one in found],
        empty="No snapshots.",
    )


async def _some(master: MasterClient, sandbox_id: str | None, name: str | None, limit: int) -> list[SnapshotView]:
    found: list[SnapshotView] = []
    cursor = None
    while len(found) < limit:
        size = min(_PAGE, limit - len(found))
        page = await master.list_snapshots(sandbox_id=sandbox_id, name=name, limit=size, cursor=cursor)
        found.extend(page.snapshots)
        cursor = page.next_cursor
        if cursor is None:
            break
    return found
