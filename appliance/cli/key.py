"""`cubemastercli key`: the API keys of teams."""

from __future__ import annotations

from typing import Annotated

import typer

from appliance.cli.output import local_time, print_json, print_table
from appliance.cli.session import Session
from appliance.contracts.master import NewKey

app = typer.Typer(no_args_is_help=True, help="API keys: create, list, revoke.")


@app.command()
def create(
    ctx: typer.Context,
    *,
    name: Annotated[str, typer.Option(help="What it is for.")] = "cli",
    team: Annotated[str, typer.Option(help="Team it belongs to; made if it does not exist.")] = "default",
) -> None:
    """Make a key and print it, this once, alone on standard output."""
    session: Session = ctx.obj
    created = session.call(lambda master: master.create_key(NewKey(team=team, name=name)))
    if session.as_json:
        print_json(session, created)
        return
    print(created.key, file=session.out.file)
    session.note(f"Key {created.key_id} of team {created.team}. Keep it: it cannot be shown again.")


@app.command("list")
def list_all(ctx: typer.Context) -> None:
    """List keys that are valid."""
    session: Session = ctx.obj
    keys = session.call(lambda master: master.list_keys())
    if session.as_json:
        print_json(session, keys)
        return
    print_table(
        session,
        ("KEY ID", "TEAM", "NAME", "KEY", "CREATED", "LAST USED"),
        [
            (one.key_id, one.team, one.name, one.mask, local_time(one.created_at), local_time(one.last_used_at))
            for one in keys
        ],
        empty="No keys. Make one with `cubemastercli key create`.",
    )


@app.command()
def revoke(ctx: typer.Context, key_id: Annotated[str, typer.Argument(help="As `key list` shows it.")]) -> None:
    """Make a key invalid for good."""
    session: Session = ctx.obj
    session.call(lambda master: master.revoke_key(key_id))
    session.note(f"Revoked key {key_id}.")
