"""Entry point of `cubemastercli`."""

from __future__ import annotations

from typing import Annotated

import typer

import appliance
from appliance.cli import key, node, sandbox, snapshot, team, tpl, volume
from appliance.cli.exits import HELP
from appliance.cli.session import Session

DEFAULT_ENDPOINT = "unix:///run/cube/cube-master/api.sock"

app = typer.Typer(
    name="cubemastercli",
    help=f"Operate the sandbox appliance.\n\n{HELP}",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(tpl.app, name="tpl")
app.add_typer(sandbox.app, name="sandbox")
app.add_typer(snapshot.app, name="snapshot")
app.add_typer(volume.app, name="volume")
app.add_typer(node.app, name="node")
app.add_typer(key.app, name="key")
app.add_typer(team.app, name="team")


@app.callback()
def _common(
    ctx: typer.Context,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    endpoint: Annotated[
        str, typer.Option(envvar="CUBE_MASTER_ENDPOINT", help="CubeMaster: unix:///PATH or an http(s) URL.")
    ] = DEFAULT_ENDPOINT,
) -> None:
    ctx.obj = Session(endpoint=endpoint, as_json=as_json)


@app.command()
def version(ctx: typer.Context) -> None:
    """Print the version of this program."""
    session: Session = ctx.obj
    session.out.print_json(data={"version": appliance.__version__}) if session.as_json else session.out.print(
        f"cubemastercli {appliance.__version__}"
    )


def main() -> None:
    app()
