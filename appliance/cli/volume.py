"""`cubemastercli volume`: file systems of teams that outlive their sandboxes."""

from __future__ import annotations

from typing import Annotated

import typer

from appliance.cli.output import local_time, mebibytes, print_fields, print_json, print_table
from appliance.cli.session import Session
from appliance.clients.master import MasterClient
from appliance.contracts.volumes import NewVolume, VolumeAndToken, VolumeView

app = typer.Typer(no_args_is_help=True, help="Volumes: create, list, look at, delete.")

_SECRET = frozenset({"token"})
VolumeId = Annotated[str, typer.Argument(help="As `volume list` shows it.")]


@app.command()
def create(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="1 to 128 of a-z, A-Z, 0-9, _ and -; one of a kind in its team.")],
    *,
    team: Annotated[str, typer.Option(help="Team it belongs to.")] = "default",
) -> None:
    """Make a volume and print its id. Whoever has a key of the team gets at its token."""
    session: Session = ctx.obj
    made = session.call(lambda master: _create(master, team, name))
    if session.as_json:
        print_json(session, made, exclude=_SECRET)
        return
    print(made.volume_id, file=session.out.file)


@app.command("list")
def list_all(
    ctx: typer.Context,
    *,
    team: Annotated[str | None, typer.Option(help="Only those of this team.")] = None,
) -> None:
    """List volumes of all teams."""
    session: Session = ctx.obj
    found = session.call(lambda master: _some(master, team))
    if session.as_json:
        print_json(session, found)
        return
    print_table(
        session,
        ("VOLUME", "NAME", "TEAM", "SIZE", "NODE", "SANDBOX", "CREATED"),
        [
            (
                one.volume_id,
                one.name,
                one.team_id,
                mebibytes(one.size_mib),
                one.node_id,
                one.sandbox_id or "",
                local_time(one.created_at),
            )
            for one in found
        ],
        empty="No volumes.",
    )


@app.command()
def info(ctx: typer.Context, volume: VolumeId) -> None:
    """Show one volume, without its token."""
    session: Session = ctx.obj
    found = session.call(lambda master: master.volumes.get(volume))
    if session.as_json:
        print_json(session, found, exclude=_SECRET)
        return
    print_fields(
        session,
        [
            ("volume", found.volume_id),
            ("name", found.name),
            ("team id", found.team_id),
            ("size", mebibytes(found.size_mib)),
            ("node", found.node_id),
            ("in use by", found.sandbox_id or "no sandbox"),
            ("created", local_time(found.created_at)),
        ],
    )


@app.command()
def delete(ctx: typer.Context, volume: VolumeId) -> None:
    """Delete a volume that no sandbox has, with all that is in it."""
    session: Session = ctx.obj
    session.call(lambda master: master.volumes.delete(volume))
    session.note(f"Deleted {volume}.")


async def _create(master: MasterClient, team: str, name: str) -> VolumeAndToken:
    found = await master.teams.get(team)
    return await master.volumes.create(NewVolume(team_id=found.team_id, name=name))


async def _some(master: MasterClient, team: str | None) -> list[VolumeView]:
    return await master.volumes.all(team_id=None if team is None else (await master.teams.get(team)).team_id)
