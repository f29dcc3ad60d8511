"""Retention: traffic goes when it is old, or when there is too much of it; the rest stays."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Column, func, select

from foretell.errors import InputError
from foretell.store._database import Database
from foretell.store._erasure import Condition, Erased, erase_where
from foretell.store._tables import queries, requests
from foretell.store._vectors import Shards

_BATCH: Final = 2_000
"""Queries, or requests, of one transaction: other writers wait that long."""

_ROUNDS: Final = 8
"""Most times the size is looked at in one call: the next call goes on."""

_HEADROOM: Final = 0.95
"""Of the limit, what is left when it was passed, so that not every call has to erase some."""


def retain(
    database: Database,
    shards: Shards,
    *,
    now: float,
    days: float | None,
    max_bytes: int | None,
) -> Erased:
    """Erase traffic that is too old, then the oldest while the store is too large."""
    if days is not None and days <= 0:
        raise InputError(f"days is {days}; wanted a number above 0")
    if max_bytes is not None and max_bytes <= 0:
        raise InputError(f"max_bytes is {max_bytes}; wanted a number above 0")
    erased = Erased()
    if days is not None:
        erased += _erase_up_to(database, shards, now - days * 86_400)
    if max_bytes is not None:
        erased += _shrink(database, shards, max_bytes)
    return erased


def _shrink(database: Database, shards: Shards, max_bytes: int) -> Erased:
    erased = Erased()
    size = database.size() + shards.size()
    if size <= max_bytes:
        return erased
    target = _HEADROOM * max_bytes
    for _ in range(_ROUNDS):
        share = min(1.0, (size - target) / size)
        limit = _time_of_share(database, share)
        if limit is None:
            return erased
        erased += _erase_up_to(database, shards, limit)
        size = database.size() + shards.size()
        if size <= max_bytes:
            return erased
    return erased


def _time_of_share(database: Database, share: float) -> float | None:
    """When the oldest ``share`` of traffic was over; ``None`` when there is no traffic."""
    found: list[float] = []
    for column, condition in _TIMES:
        with database.transaction() as connection:
            n = connection.scalar(select(func.count()).where(condition)) or 0
            if n:
                place = min(n - 1, int(share * n))
                at = select(column).where(condition).order_by(column).offset(place).limit(1)
                found.append(connection.scalars(at).one())
    # Of a query and its request, the latter is the older; by the younger of the two both go.
    return max(found, default=None)


_TIMES: Final[tuple[tuple[Column[float], Condition], ...]] = (
    (requests.c.at, requests.c.at.is_not(None)),
    (queries.c.recorded_at, queries.c.origin == "traffic"),
)


def _erase_up_to(database: Database, shards: Shards, limit: float) -> Erased:
    """Erase traffic of the time ``limit`` and before, a batch at a time, the oldest first."""
    erased = Erased()
    while True:
        until = _end_of_batch(database, limit)
        if until is None:
            return erased
        erased += erase_where(
            database,
            shards,
            of_queries=(queries.c.origin == "traffic") & (queries.c.recorded_at <= until),
            of_requests=requests.c.at <= until,
        )


def _end_of_batch(database: Database, limit: float) -> float | None:
    """Up to when a batch reaches; ``None`` when there is nothing as old as ``limit``."""
    ends: list[float] = []
    with database.transaction() as connection:
        for column, condition in _TIMES:
            oldest = select(column).where(condition, column <= limit).order_by(column)
            first = connection.scalars(oldest.limit(_BATCH)).all()
            if first:
                ends.append(first[-1])
    return min(ends, default=None)
