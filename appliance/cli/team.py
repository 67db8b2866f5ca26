"""`cubemastercli team`: teams, and how much each may have at one time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from appliance.cli.exits import Exit
from appliance.cli.output import local_time, mebibytes, print_fields, print_json, print_table
from appliance.cli.session import Session
from appliance.cli.sizes import parse_mib
from appliance.clients.master import MasterClient
from appliance.contracts.teams import TeamLimits, TeamView

app = typer.Typer(no_args_is_help=True, help="Teams: create, list, look at, limit.")

Team = Annotated[str, typer.Argument(help="Name of the team, or its id.")]


@app.command()
def create(ctx: typer.Context, name: Annotated[str, typer.Argument(help="1 to 64 of a-z, 0-9, _ and -.")]) -> None:
    """Make a team and print its id."""
    session: Session = ctx.obj
    made = session.call(lambda master: master.teams.create(name))
    if session.as_json:
        print_json(session, made)
        return
    print(made.team_id, file=session.out.file)
    session.note(f"Make a key for it with `cubemastercli key create --team {made.slug}`.")


@app.command("list")
def list_all(ctx: typer.Context) -> None:
    """List teams, with what each has of what it may have."""
    session: Session = ctx.obj
    teams = session.call(lambda master: master.teams.all())
    if session.as_json:
        print_json(session, teams)
        return
    print_table(
        session,
        ("TEAM", "ID", "SANDBOXES", "VCPUS", "MEMORY", "DISK", "BUILDS", "VOLUMES", "CREATED"),
        [(one.slug, one.team_id, *_standing(one), local_time(one.created_at)) for one in teams],
        empty="No teams. Make one with `cubemastercli team create NAME`.",
    )


@app.command()
def info(ctx: typer.Context, team: Team) -> None:
    """Show one team."""
    session: Session = ctx.obj
    _show(session, session.call(lambda master: master.teams.get(team)))


@app.command("set-quota")
def set_quota(
    ctx: typer.Context,
    team: Team,
    *,
    sandboxes: Annotated[str | None, typer.Option(metavar="N", help="That run or start at one time.")] = None,
    vcpus: Annotated[str | None, typer.Option(metavar="N", help="Of running sandboxes.")] = None,
    memory: Annotated[str | None, typer.Option(metavar="SIZE", help="Of running sandboxes.")] = None,
    disk: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Of all sandboxes, paused ones too, and volumes.")
    ] = None,
    builds: Annotated[str | None, typer.Option(metavar="N", help="Template builds at one time.")] = None,
    volumes: Annotated[str | None, typer.Option(metavar="N", help="That there are.")] = None,
) -> None:
    """Change limits of a team: a figure, `none` for no limit, or `default`. What is not named stays."""
    session: Session = ctx.obj
    given = {
        "sandboxes": (sandboxes, _whole),
        "vcpus": (vcpus, _whole),
        "memory_mib": (memory, parse_mib),
        "disk_mib": (disk, parse_mib),
        "builds": (builds, _whole),
        "volumes": (volumes, _whole),
    }
    try:
        changes = {name: _limit(text, parse) for name, (text, parse) in given.items() if text is not None}
    except ValueError as error:
        session.fail(str(error), Exit.USAGE)
    if not changes:
        session.fail("name at least one limit to change", Exit.USAGE)
    _show(session, session.call(lambda master: _change(master, team, changes)))


async def _change(master: MasterClient, team: str, changes: dict[str, int | None]) -> TeamView:
    before = await master.teams.get(team)
    # Validated again, unlike by model_copy: a figure may be beyond what the interface takes.
    limits = TeamLimits.model_validate({**before.own_limits.model_dump(), **changes})
    return await master.teams.set_limits(before.team_id, limits)


def _limit(text: str, parse: Callable[[str], int]) -> int | None:
    """Return a limit as the interface has it: None is the default, 0 is none."""
    if text == "default":
        return None
    return 0 if text == "none" else parse(text)


def _whole(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 2**31:
        raise ValueError(f"'{text}' is not a number from 1 on; for no limit write none")
    return int(text)


def _show(session: Session, team: TeamView) -> None:
    if session.as_json:
        print_json(session, team)
        return
    sandboxes, vcpus, memory, disk, builds, volumes = _standing(team)
    own = ", ".join(name for name, value in team.own_limits.model_dump().items() if value is not None)
    print_fields(
        session,
        [
            ("team", team.slug),
            ("team id", team.team_id),
            ("sandboxes", sandboxes),
            ("vcpus", vcpus),
            ("memory", memory),
            ("disk", disk),
            ("builds", builds),
            ("volumes", volumes),
            ("own limits", own or "none, all are the defaults"),
            ("created", local_time(team.created_at)),
        ],
    )


def _standing(team: TeamView) -> tuple[str, str, str, str, str, str]:
    """Return what the team has of what it may have."""
    used, limits = team.usage, team.limits
    return (
        _of(used.sandboxes, limits.sandboxes),
        _of(used.vcpus, limits.vcpus),
        _of(used.memory_mib, limits.memory_mib, mebibytes),
        _of(used.disk_mib, limits.disk_mib, mebibytes),
        _of(used.builds, limits.builds),
        _of(used.volumes, limits.volumes),
    )


def _of(used: int, limit: int | None, show: Callable[[int], str] = str) -> str:
    return show(used) if limit is None else f"{show(used)}/{show(limit)}"
