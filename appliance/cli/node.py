"""`cubemastercli node`: the machines that sandboxes run on."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from appliance.cli.output import mebibytes, print_json, print_table, span, state
from appliance.cli.session import Session

app = typer.Typer(no_args_is_help=True, help="Nodes: list, drain, use again.")


NodeId = Annotated[str, typer.Argument(help="As `node list` shows it.")]


@app.command("list")
def list_all(ctx: typer.Context) -> None:
    """List nodes with their state, and how much of each is reserved."""
    session: Session = ctx.obj
    nodes = session.call(lambda master: master.list_nodes())
    if session.as_json:
        print_json(session, nodes)
        return
    now = datetime.now(UTC)
    print_table(
        session,
        ("NODE", "STATE", "VMM", "CPU", "MEMORY", "DISK FREE", "SANDBOXES", "VERSION", "HEARTBEAT", "DETAIL"),
        [
            (
                one.node_id,
                state("draining" if one.draining and one.state == "ready" else one.state),
                f"{one.vmm}+{one.accelerator}",
                f"{one.vcpus_reserved}/{one.vcpus}",
                f"{mebibytes(one.memory_reserved_mib)}/{mebibytes(one.memory_mib)}",
                mebibytes(one.disk_free_mib),
                str(one.sandboxes),
                one.version,
                f"{span(now - one.last_heartbeat_at)} ago",
                one.detail,
            )
            for one in nodes
        ],
        empty="No node has registered. See `systemctl status cubelet` on each node.",
    )


@app.command()
def drain(ctx: typer.Context, node_id: NodeId) -> None:
    """Give a node no new sandboxes and builds. Those it has stay until they end."""
    session: Session = ctx.obj
    session.call(lambda master: master.set_draining(node_id, draining=True))
    session.note(f"Node {node_id} gets nothing new. `cubemastercli node list` shows what it still has.")


@app.command()
def ready(ctx: typer.Context, node_id: NodeId) -> None:
    """Use a drained node again."""
    session: Session = ctx.obj
    session.call(lambda master: master.set_draining(node_id, draining=False))
    session.note(f"Node {node_id} is in use.")
