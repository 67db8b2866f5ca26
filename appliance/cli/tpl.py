"""`cubemastercli tpl`: templates and their builds."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Annotated

import typer
from rich.markup import escape
from rich.text import Text

from appliance.cli.exits import Exit
from appliance.cli.output import local_time, mebibytes, print_fields, print_json, print_table, state
from appliance.cli.session import Session
from appliance.cli.sizes import mib_option
from appliance.clients.master import MasterClient
from appliance.contracts.node import BuildLogEntry, RegistryLogin
from appliance.contracts.templates import BuildStatus, BuildView, NewTemplate, TemplateView
from appliance.domain.errors import DeadlineExceeded, Unavailable

app = typer.Typer(no_args_is_help=True, help="Templates: make one from a container image, watch, list, delete.")

_POLL_S = 0.5

Reference = Annotated[str, typer.Argument(help="Template id, or [team/]name[:tag].")]


@app.command("create-from-image")
def create_from_image(
    ctx: typer.Context,
    *,
    image: Annotated[
        str, typer.Option(help="Registry reference, oci:DIR[:TAG] or docker-archive:FILE[:REF].", show_default=False)
    ],
    writable_layer_size: Annotated[
        int, typer.Option(parser=mib_option, metavar="SIZE", help="Space for what sandboxes write.", show_default="1G")
    ] = 1024,
    expose_port: Annotated[
        list[int] | None, typer.Option(min=1, max=65535, help="Port of a service in it; repeat for more.")
    ] = None,
    probe: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port that answers HTTP once it is ready to be snapshotted.")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", "--alias", help="Name to create sandboxes by: name[:tag].")
    ] = None,
    cpu: Annotated[int, typer.Option(min=1, max=64, help="vCPUs.")] = 2,
    memory: Annotated[int, typer.Option(parser=mib_option, metavar="SIZE", help="RAM.", show_default="512M")] = 512,
    start_cmd: Annotated[str | None, typer.Option(help="Shell command to run; default: the image's own.")] = None,
    ready_cmd: Annotated[str | None, typer.Option(help="Shell command that succeeds once it is ready.")] = None,
    registry_user: Annotated[str | None, typer.Option(help="User name at the registry.")] = None,
    registry_password_stdin: Annotated[
        bool, typer.Option("--registry-password-stdin", help="Read the registry's password from standard input.")
    ] = False,
    team: Annotated[str, typer.Option(help="Team that owns it; made if it does not exist.")] = "default",
    public: Annotated[bool, typer.Option("--public", help="Let every team use it.")] = False,
) -> None:
    """Start building a template. Prints the job id; `tpl watch` follows it."""
    session: Session = ctx.obj
    if (registry_user is None) == registry_password_stdin:
        session.fail("--registry-user and --registry-password-stdin belong together", Exit.USAGE)
    login = None
    if registry_user is not None:
        login = RegistryLogin(username=registry_user, password=sys.stdin.readline().rstrip("\n"))
    new = NewTemplate(
        team=team,
        image=image,
        registry=login,
        alias=name,
        vcpus=cpu,
        memory_mib=memory,
        writable_layer_mib=writable_layer_size,
        start_cmd=start_cmd,
        ready_cmd=ready_cmd,
        probe_port=probe,
        exposed_ports=tuple(expose_port or ()),
        public=public,
    )
    build = session.call(lambda master: master.create_template(new))
    if session.as_json:
        print_json(session, build)
        return
    print_fields(session, [("job id", build.build_id), ("template id", build.template_id)])
    session.note(f"Follow it with: cubemastercli tpl watch --job-id {build.build_id}")


@app.command()
def watch(
    ctx: typer.Context,
    *,
    job_id: Annotated[str, typer.Option(help="What `tpl create-from-image` printed.", show_default=False)],
    timeout: Annotated[float, typer.Option(help="Seconds to wait at most.")] = 1800,
) -> None:
    """Follow a build until it is READY (exit code 0), in ERROR (1), or the time is up (3)."""
    session: Session = ctx.obj
    build = session.call(lambda master: _follow(session, master, job_id, limit_s=timeout))
    if session.as_json:
        print_json(session, build)
    elif build.status is BuildStatus.READY:
        session.out.print(f"[green]READY[/green] template {build.template_id}")
    if build.status is BuildStatus.ERROR:
        step = f" at step {build.step}" if build.step else ""
        session.fail(f"the build ended in ERROR{step}: {build.reason or 'no reason given'}", Exit.FAILED)


@app.command("list")
def list_all(ctx: typer.Context) -> None:
    """List all templates."""
    session: Session = ctx.obj
    templates = session.call(lambda master: master.list_templates())
    if session.as_json:
        print_json(session, templates)
        return
    print_table(
        session,
        ("TEMPLATE", "NAMES", "TEAM", "STATUS", "CPU", "MEMORY", "DISK", "NODES", "STARTED"),
        [
            (
                one.template_id,
                ", ".join(one.aliases),
                one.team_slug + (" (public)" if one.public else ""),
                state(one.status),
                str(one.vcpus),
                mebibytes(one.memory_mib),
                mebibytes(one.disk_size_mib),
                ", ".join(one.nodes),
                str(one.spawn_count),
            )
            for one in templates
        ],
        empty="No templates. Make one with `cubemastercli tpl create-from-image`.",
    )


@app.command()
def info(ctx: typer.Context, template: Reference) -> None:
    """Show one template."""
    session: Session = ctx.obj
    shown = session.call(lambda master: master.get_template(template))
    if session.as_json:
        print_json(session, shown)
    else:
        print_fields(session, _fields(shown))


@app.command()
def delete(ctx: typer.Context, template: Reference) -> None:
    """Delete a template that no sandbox uses."""
    session: Session = ctx.obj
    session.call(lambda master: master.delete_template(template))
    session.note(f"Deleted template {template}.")


def _fields(one: TemplateView) -> list[tuple[str, str | Text | None]]:
    return [
        ("template id", one.template_id),
        ("names", ", ".join(one.aliases) or None),
        ("team", one.team_slug + (" (public)" if one.public else "")),
        ("status", state(one.status)),
        ("reason", one.reason),
        ("job id", one.build_id),
        ("builds", str(one.build_count)),
        ("image", one.image),
        ("cpu", str(one.vcpus)),
        ("memory", mebibytes(one.memory_mib)),
        ("disk", mebibytes(one.disk_size_mib)),
        ("guest agent", one.envd_version or None),
        ("nodes", ", ".join(one.nodes) or None),
        ("sandboxes", f"{one.spawn_count}, the last {local_time(one.last_spawned_at)}"),
        ("created", local_time(one.created_at)),
        ("updated", local_time(one.updated_at)),
    ]


async def _follow(session: Session, master: MasterClient, job_id: str, *, limit_s: float) -> BuildView:
    """Show log entries as they come; return the build once it has ended and its log was read to the end."""
    give_up = time.monotonic() + limit_s
    seen = 0
    with session.err.status(f"build {job_id}: asking CubeMaster") as status:
        while time.monotonic() < give_up:
            try:
                build = await master.get_build(job_id, log_offset=seen)
            except Unavailable as error:
                if seen == 0 and not isinstance(error, DeadlineExceeded):
                    raise
                # It may be restarting; the build goes on without it.
                status.update(f"build {job_id}: CubeMaster does not answer, trying again")
            else:
                for entry in build.logs:
                    _show(session, entry)
                seen += len(build.logs)
                if not build.logs and build.status in (BuildStatus.READY, BuildStatus.ERROR):
                    return build
                status.update(f"build {job_id}: {build.status}")
                if build.logs:
                    continue
            await asyncio.sleep(_POLL_S)
    raise DeadlineExceeded(f"build {job_id}", limit_s)


def _show(session: Session, entry: BuildLogEntry) -> None:
    if session.as_json:
        return
    colour = {"error": "red", "warn": "yellow", "debug": "dim"}.get(entry.level, "")
    at = entry.timestamp.astimezone().strftime("%H:%M:%S")
    session.err.print(f"[dim]{at}[/dim]", escape(entry.message), style=colour, soft_wrap=True)
