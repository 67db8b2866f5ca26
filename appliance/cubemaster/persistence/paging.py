"""Pages in the order of a time, newest first; ties go by id."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from sqlalchemy import ColumnElement, Select, and_, or_

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class PagePosition:
    """Where a page ended."""

    at: datetime
    key: str


def newest_first(
    statement: Select[tuple[object, ...]],
    *,
    at: ColumnElement[datetime],
    key: ColumnElement[str],
    after: PagePosition | None,
    limit: int,
) -> Select[tuple[object, ...]]:
    """Return the statement for the first `limit` rows after a position."""
    if after is not None:
        statement = statement.where(or_(at < after.at, and_(at == after.at, key < after.key)))
    return statement.order_by(at.desc(), key.desc()).limit(limit)


def cut(found: list[_T], limit: int, position: Callable[[_T], PagePosition]) -> tuple[list[_T], PagePosition | None]:
    """Return the page of `limit` from what a query for one more has found, and where it ended if there is more."""
    page = found[:limit]
    return page, position(page[-1]) if len(found) > limit else None
