"""Long work that was asked for, and which worker does it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import Connection, and_, or_, select, update

from foretell.errors import InputError
from foretell.records import Job, JobState
from foretell.store._database import Database
from foretell.store._tables import jobs
from foretell.store._texts import check_plain_json

_COLUMNS = [column for column in jobs.c if column.name not in ("worker", "not_before")]


def add(
    database: Database, kind: str, args: Mapping[str, Any], *, by: str, not_before: float, at: float
) -> Job:
    """A new job, waiting."""
    check_plain_json(args, f"arguments of the job {kind!r}")
    row: dict[str, Any] = {
        "kind": kind,
        "args": dict(args),
        "state": "waiting",
        "by": by,
        "created_at": at,
        "not_before": not_before,
        "attempts": 0,
        "message": "",
        "result": {},
    }
    with database.transaction(write=True) as connection:
        statement = database.insert(jobs).returning(jobs.c.id)
        return _get(connection, connection.scalars(statement, row).one())


def claim(
    database: Database, worker: str, *, kinds: Collection[str], lease_s: float, at: float
) -> Job | None:
    """Give the worker the oldest job that waits, or that a worker was given who is dead."""
    ready = and_(jobs.c.state == "waiting", jobs.c.not_before <= at)
    deserted = and_(jobs.c.state == "running", jobs.c.beat_at < at - lease_s)
    # Rows that another worker is claiming are passed over; on SQLite writers take turns anyway.
    oldest = (
        select(jobs.c.id)
        .where(or_(ready, deserted), jobs.c.kind.in_(kinds))
        .order_by(jobs.c.id)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    with database.transaction(write=True) as connection:
        job_id = connection.scalar(oldest)
        if job_id is None:
            return None
        claimed = update(jobs).where(jobs.c.id == job_id)
        claimed = claimed.values(
            state="running",
            worker=worker,
            started_at=at,
            beat_at=at,
            attempts=jobs.c.attempts + 1,
            progress=None,
        )
        connection.execute(claimed)
        return _get(connection, job_id)


def beat(
    database: Database,
    job_id: int,
    *,
    worker: str | None,
    progress: float | None,
    message: str,
    at: float,
) -> bool:
    """Say that a job is being worked on; ``False`` when it is not this worker's any more."""
    values = {"beat_at": at, "progress": progress, "message": message}
    return _update_running(database, job_id, worker, values)


def finish(
    database: Database,
    job_id: int,
    *,
    worker: str | None,
    result: Mapping[str, Any] | None,
    error: str | None,
    at: float,
) -> bool:
    """End a running job; ``False`` when it is not this worker's any more."""
    if result is not None:
        check_plain_json(result, f"results of job {job_id}")
    values: dict[str, Any] = {"finished_at": at, "result": dict(result or {})}
    if error is None:
        values |= {"state": "done", "progress": 1.0}
    else:
        values |= {"state": "failed", "message": error}
    return _update_running(database, job_id, worker, values)


def put_back(
    database: Database, job_id: int, *, worker: str | None, not_before: float, message: str
) -> bool:
    """Let a running job wait again; ``False`` when it is not this worker's any more."""
    values = {
        "state": "waiting",
        "worker": None,
        "beat_at": None,
        "progress": None,
        "not_before": not_before,
        "message": message,
    }
    return _update_running(database, job_id, worker, values)


def find(database: Database, job_id: int) -> Job | None:
    """One job."""
    statement = select(*_COLUMNS).where(jobs.c.id == job_id)
    with database.transaction() as connection:
        row = connection.execute(statement).mappings().first()
    return None if row is None else Job(**row)


def newest(database: Database, *, state: JobState | None, limit: int) -> list[Job]:
    """Jobs, the newest first."""
    statement = select(*_COLUMNS).order_by(jobs.c.id.desc()).limit(limit)
    if state is not None:
        statement = statement.where(jobs.c.state == state)
    with database.transaction() as connection:
        return [Job(**row) for row in connection.execute(statement).mappings()]


def unfinished(database: Database, kind: str, domain: str) -> list[Job]:
    """Jobs of a kind and domain that wait or run, oldest first."""
    statement = (
        select(*_COLUMNS)
        .where(jobs.c.kind == kind, jobs.c.state.in_(("waiting", "running")))
        .order_by(jobs.c.id)
    )
    with database.transaction() as connection:
        found = [Job(**row) for row in connection.execute(statement).mappings()]
    return [job for job in found if job.args.get("domain", "") == domain]


def _update_running(
    database: Database, job_id: int, worker: str | None, values: Mapping[str, Any]
) -> bool:
    mine = [jobs.c.id == job_id, jobs.c.state == "running"]
    if worker is not None:
        mine.append(jobs.c.worker == worker)
    with database.transaction(write=True) as connection:
        if connection.execute(update(jobs).where(*mine).values(**values)).rowcount:
            return True
        if connection.scalar(select(jobs.c.id).where(jobs.c.id == job_id)) is None:
            raise InputError(f"there is no job {job_id}; 'foretell flywheel jobs' shows them")
        return False


def _get(connection: Connection, job_id: int) -> Job:
    statement = select(*_COLUMNS).where(jobs.c.id == job_id)
    return Job(**connection.execute(statement).mappings().one())
