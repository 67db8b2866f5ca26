"""`cubemastercli key`: the API keys of teams."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from appliance.cli.exits import Exit
from appliance.cli.expiry import parse_expiry
from appliance.cli.output import local_time, print_json, print_table
from appliance.cli.session import Session
from appliance.contracts.master import NewKey
from appliance.domain.access import Scope

app = typer.Typer(no_args_is_help=True, help="API keys: create, list, revoke.")


@app.command()
def create(
    ctx: typer.Context,
    *,
    name: Annotated[str, typer.Option(help="What it is for.")] = "cli",
    team: Annotated[str, typer.Option(help="Team it belongs to; made if it does not exist.")] = "default",
    scope: Annotated[
        list[Scope] | None,
        typer.Option("--scope", help="What it may be used for; repeat for more. Default: everything."),
    ] = None,
    expires: Annotated[
        str | None, typer.Option(metavar="WHEN", help="30d, 12h, or a time such as 2027-01-31. Default: never.")
    ] = None,
) -> None:
    """Make a key and print it, this once, alone on standard output."""
    session: Session = ctx.obj
    try:
        expires_at = None if expires is None else parse_expiry(expires, now=datetime.now(UTC))
    except ValueError as error:
        session.fail(str(error), Exit.USAGE)
    if not 1 <= len(name) <= 255:
        session.fail("--name has 1 to 255 characters", Exit.USAGE)
    new = NewKey(team=team, name=name, scopes=tuple(scope) if scope else None, expires_at=expires_at)
    created = session.call(lambda master: master.create_key(new))
    if session.as_json:
        print_json(session, created)
        return
    print(created.key, file=session.out.file)
    session.note(f"Key {created.key_id} of team {created.team}. Keep it: it cannot be shown again.")


@app.command("list")
def list_all(ctx: typer.Context) -> None:
    """List keys that were not revoked."""
    session: Session = ctx.obj
    keys = session.call(lambda master: master.list_keys())
    if session.as_json:
        print_json(session, keys)
        return
    print_table(
        session,
        ("KEY ID", "TEAM", "NAME", "KEY", "SCOPES", "CREATED", "EXPIRES", "LAST USED"),
        [
            (
                one.key_id,
                one.team,
                one.name,
                one.mask,
                "all" if one.scopes is None else ", ".join(one.scopes),
                local_time(one.created_at),
                local_time(one.expires_at),
                local_time(one.last_used_at),
            )
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
