"""Tables for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timedelta

from pydantic import BaseModel
from rich.table import Table
from rich.text import Text

from appliance.cli.session import Session

_COLOURS = {
    "ready": "green",
    "running": "green",
    "building": "yellow",
    "waiting": "yellow",
    "creating": "yellow",
    "pausing": "yellow",
    "resuming": "yellow",
    "snapshotting": "yellow",
    "rolling_back": "yellow",
    "killing": "yellow",
    "not_ready": "yellow",
    "draining": "yellow",
    "error": "red",
    "lost": "red",
}


def print_json(
    session: Session, value: BaseModel | Sequence[BaseModel], *, exclude: frozenset[str] = frozenset()
) -> None:
    """Print one object, or a list, as the wire has it."""
    shown = (
        value.model_dump(mode="json", exclude=set(exclude))
        if isinstance(value, BaseModel)
        else [one.model_dump(mode="json", exclude=set(exclude)) for one in value]
    )
    # Not through rich, which would break long lines.
    print(json.dumps(shown, indent=2), file=session.out.file)


def print_table(session: Session, columns: Sequence[str], rows: Sequence[Sequence[str | Text]], *, empty: str) -> None:
    """Print rows, or on standard error what to do when there are none."""
    if not rows:
        session.note(empty)
        return
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for column in table.columns:
        column.overflow = "fold"
    # The id, which people copy.
    table.columns[0].no_wrap = True
    for row in rows:
        table.add_row(*row)
    session.out.print(table)


def print_fields(session: Session, fields: Sequence[tuple[str, str | Text | None]]) -> None:
    """Print names and values of one object; what it does not have is left out."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in fields:
        if value is not None:
            table.add_row(name, value)
    session.out.print(table)


def state(word: str) -> Text:
    return Text(word, style=_COLOURS.get(word, ""))


def local_time(at: datetime | None) -> str:
    return "never" if at is None else at.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def span(length: timedelta) -> str:
    """Return a duration as `1h02m`, `3m04s` or `5s`; a negative one as `0s`."""
    seconds = max(0, int(length.total_seconds()))
    if seconds >= 3600:
        return f"{seconds // 3600}h{seconds % 3600 // 60:02}m"
    if seconds >= 60:
        return f"{seconds // 60}m{seconds % 60:02}s"
    return f"{seconds}s"


def mebibytes(size: int) -> str:
    return f"{size / 1024:g}G" if size >= 1024 and size % 256 == 0 else f"{size}M"
