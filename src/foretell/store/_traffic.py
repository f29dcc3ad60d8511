"""Routed requests as columns, and what was read of them and said about them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Select, Subquery, select

from foretell.errors import TrainingDataError
from foretell.records import ReadPoint, Subspace, TrafficLog, Vote
from foretell.store import _tables
from foretell.store._database import Database
from foretell.store._reading import Place, read_columns, shared_subspace
from foretell.store._trust import most_trusted
from foretell.store._vectors import Shards

_requests = _tables.requests.c
_TEXTS = {
    "ids": "id",
    "key_ids": "key_id",
    "actions": "action",
    "causes": "cause",
    "probes": "probe",
    "shadow_probes": "shadow_probe",
    "weak_models": "weak_model",
}
_NUMBERS = (
    "at",
    "p_success",
    "p_strong",
    "keep_at",
    "weak_chance",
    "pair_chance",
    "shadow_p_success",
    "cost_usd",
    "always_strong_usd",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What ``Store.traffic`` was asked for."""

    domain: str
    since: float | None
    until: float | None
    route: str | None
    metric: str | None
    limit: int | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RecentVectors:
    """What the weak model's prefill showed of a domain's latest requests, oldest first.

    Row i of every column is the same request, of any action. ``at`` is in seconds since 1970
    (UTC); ``activations`` are (requests, width) at each read point that all of them have.
    ``subspace`` is what they were reduced to and restored from: compare them only with what is
    projected on it, too.
    """

    ids: tuple[str, ...]
    at: NDArray[np.float64]
    activations: dict[ReadPoint, NDArray[np.float32]]
    subspace: Subspace | None = None

    def __len__(self) -> int:
        return len(self.ids)


def log(database: Database, wanted: Wanted) -> TrafficLog:
    """Requests that a model of the route answered, oldest first; see ``Store.traffic``."""
    chosen = _answered(wanted).subquery()
    with database.transaction() as connection:
        rows = connection.execute(select(chosen)).all()[::-1]
        labelled = connection.execute(_outcomes(chosen, wanted)).all()
    metrics = sorted({row.metric for row in labelled})
    if len(metrics) > 1:
        raise TrainingDataError(
            f"traffic of domain {wanted.domain!r} is labelled by several metrics: "
            f"{', '.join(metrics)}; choose one"
        )
    weak_models: dict[str, str | None] = {row.id: row.weak_model for row in rows}
    weak = most_trusted((row for row in labelled if row.role == "weak"), weak_models.__getitem__)
    strong = most_trusted((row for row in labelled if row.role == "strong"), lambda _: None)
    texts: dict[str, Any] = {
        name: tuple(getattr(row, column) or "" for row in rows) for name, column in _TEXTS.items()
    }
    numbers: dict[str, Any] = {
        name: _column(getattr(row, name) for row in rows) for name in _NUMBERS
    }
    return TrafficLog(
        **texts,
        **numbers,
        weak=_column(weak.get(row.id) for row in rows),
        strong=_column(strong.get(row.id) for row in rows),
        served_weak=np.array([row.serve == "weak" for row in rows], dtype=np.bool_),
    )


def votes(database: Database, domain: str, since: float | None) -> list[Vote]:
    """Feedback on the domain's answered requests, in the order in which it came."""
    feedback = _tables.feedback
    statement = (
        select(feedback, _requests.serve)
        .join(_tables.requests)
        .where(_requests.domain == domain, _requests.serve.is_not(None))
        .order_by(feedback.c.recorded_at, *feedback.primary_key)
    )
    if since is not None:
        statement = statement.where(feedback.c.recorded_at >= since)
    with database.transaction() as connection:
        return [
            Vote(
                request_id=row.request_id,
                domain=domain,
                role=row.serve,
                key_id=row.key_id,
                metric=row.metric,
                value=row.value,
                source=row.source,
                author=row.author,
                note=row.note,
                at=row.recorded_at,
            )
            for row in connection.execute(statement)
        ]


def recent_vectors(
    database: Database,
    shards: Shards,
    domain: str,
    *,
    since: float | None,
    weak_model: str | None,
    limit: int,
) -> RecentVectors:
    """The latest prefills that were kept; see ``Store.recent_vectors``."""
    table = _tables.observations
    if weak_model is None:
        # of the newest request of all, which may well have no vectors
        newest = (
            select(_requests.weak_model)
            .where(_requests.domain == domain, _requests.weak_model.is_not(None))
            .order_by(_requests.at.desc(), _requests.id.desc())
            .limit(1)
        )
        with database.transaction() as connection:
            weak_model = connection.scalar(newest)
    statement = (
        select(_requests.id, _requests.at, table.c.role, table.c.vector_shard, table.c.vector_row)
        .join(_tables.requests, _requests.id == table.c.query_id)
        .where(
            table.c.domain == domain,
            _requests.domain == domain,
            _requests.weak_model == weak_model,
            table.c.vector_shard.is_not(None),
        )
        .order_by(_requests.at.desc(), _requests.id.desc(), table.c.role)
        .limit(2 * limit)  # both models' observations of a request may have some
    )
    if since is not None:
        statement = statement.where(_requests.at >= since)
    with database.transaction() as connection:
        rows = connection.execute(statement).all()
    # the last of a request wins: the weak model's own, whose prefill went all the way
    latest = list({row.id: row for row in rows}.values())[:limit][::-1]
    subspace = shared_subspace(shards, [row.vector_shard for row in latest])
    latest = [row for row in latest if shards.subspace(row.vector_shard) in ("", subspace)]
    places = [Place(row.id, row.vector_shard, row.vector_row) for row in latest]
    sets = [shards.read_points(name) for name in {place.shard for place in places}]
    common = frozenset[ReadPoint]() if not sets else frozenset.intersection(*sets)
    points = [point for point in sorted(common) if point.pooling != "tokens"]
    return RecentVectors(
        ids=tuple(row.id for row in latest),
        at=_column(row.at for row in latest),
        activations=read_columns(shards, places, points, subspace=subspace)[0],
        subspace=shards.subspaces.load(subspace) if subspace else None,
    )


def _answered(wanted: Wanted) -> Select[Any]:
    """The newest requests first, as far as a model of the route answered them."""
    columns = [_requests[name] for name in (*_TEXTS.values(), *_NUMBERS, "serve")]
    statement = (
        select(*columns)
        .where(
            _requests.domain == wanted.domain,
            _requests.serve.is_not(None),
            _requests.status < 400,
        )
        .order_by(_requests.at.desc(), _requests.id.desc())
        .limit(wanted.limit)
    )
    if wanted.since is not None:
        statement = statement.where(_requests.at >= wanted.since)
    if wanted.until is not None:
        statement = statement.where(_requests.at < wanted.until)
    if wanted.route is not None:
        statement = statement.where(_requests.route == wanted.route)
    return statement


def _outcomes(chosen: Subquery, wanted: Wanted) -> Select[Any]:
    table = _tables.outcomes
    statement = (
        select(table)
        .join(chosen, chosen.c.id == table.c.query_id)
        .where(table.c.domain == wanted.domain, table.c.value.is_not(None))
    )
    return statement if wanted.metric is None else statement.where(table.c.metric == wanted.metric)


def _column(values: Iterable[float | None]) -> NDArray[np.float64]:
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)
