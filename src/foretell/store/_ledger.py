"""What was spent, by day, key and route; summed where the requests are."""

from __future__ import annotations

from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, and_, case, func, or_, select

from foretell.records import LedgerLine
from foretell.store._database import Database
from foretell.store._days import SECONDS_A_DAY, start_of, start_of_day
from foretell.store._tables import requests

_column = requests.c
_explored = _column.action == "explore"
_KEPT = or_(_column.action == "keep", and_(_explored, _column.serve == "weak"))
_ESCALATED = or_(_column.action == "escalate", and_(_explored, _column.serve == "strong"))
_DECLINED = _column.action == "declined"
# The cost without routing, beside each cost that is known. Where it is not known itself, the cost
# as it was stands in for it: such a request neither saves nor loses.
_WITHOUT_ROUTING = case(
    (_column.cost_usd.is_not(None), func.coalesce(_column.always_strong_usd, _column.cost_usd))
)


class Spent(NamedTuple):
    """What a day has cost so far.

    ``usd`` leaves out requests whose cost is not known. ``escalations`` counts as
    ``LedgerLine.escalated`` does.
    """

    usd: float
    escalations: int


def lines(database: Database, *, since_day: str | None) -> list[LedgerLine]:
    """The ledger in the order of day, key and route."""
    key = (_column.day, _column.key_id, _column.route)
    statement = select(
        *key,
        func.count().label("requests"),
        _count(_KEPT).label("kept"),
        _count(_ESCALATED).label("escalated"),
        _count(_DECLINED).label("declined"),
        _count(_column.cost_usd.is_(None)).label("unpriced"),
        _sum(_column.prompt_tokens).label("prompt_tokens"),
        _sum(_column.completion_tokens).label("completion_tokens"),
        _sum(_column.cost_usd).label("cost_usd"),
        _sum(_column.weak_usd).label("weak_usd"),
        _sum(_WITHOUT_ROUTING).label("always_strong_usd"),
    ).group_by(*key)
    if since_day is not None:
        statement = statement.where(_column.at >= start_of(since_day))
    with database.transaction() as connection:
        found = [_line(row) for row in connection.execute(statement)]
    # Not in SQL: databases differ on where NULL and other scripts come.
    return sorted(found, key=lambda line: (line.day, line.key_id, line.route or ""))


def spent(database: Database, *, now: float, key_id: str | None, route: str | None) -> Spent:
    """What the day of ``now`` has cost so far."""
    midnight = start_of_day(now)
    statement = select(_sum(_column.cost_usd), _count(_ESCALATED)).where(
        _column.at >= midnight, _column.at < midnight + SECONDS_A_DAY
    )
    if key_id is not None:
        statement = statement.where(_column.key_id == key_id)
    if route is not None:
        statement = statement.where(_column.route == route)
    with database.transaction() as connection:
        usd, escalations = connection.execute(statement).one()
    return Spent(float(usd), escalations)


def _count(condition: ColumnElement[bool]) -> Any:
    return func.count().filter(condition)


def _sum(column: ColumnElement[Any]) -> Any:
    """A sum that leaves out what is not known; 0 where nothing is."""
    return func.coalesce(func.sum(column), 0)


def _line(row: Any) -> LedgerLine:
    return LedgerLine(
        day=row.day,
        key_id=row.key_id,
        route=row.route,
        requests=row.requests,
        kept=row.kept,
        escalated=row.escalated,
        declined=row.declined,
        unpriced=row.unpriced,
        # PostgreSQL sums whole numbers to a Decimal
        prompt_tokens=int(row.prompt_tokens),
        completion_tokens=int(row.completion_tokens),
        cost_usd=float(row.cost_usd),
        weak_usd=float(row.weak_usd),
        always_strong_usd=float(row.always_strong_usd),
    )
