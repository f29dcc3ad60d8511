"""The store: what was observed, how it went, what was served, and the vectors that were read."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from foretell.records import (
    ApiKey,
    Feedback,
    KeyLimits,
    LedgerLine,
    Observation,
    Outcome,
    Query,
    ReadPoint,
    RequestRecord,
    Role,
    RoutingData,
    Split,
)
from foretell.store import (
    _api_keys,
    _config_versions,
    _domains,
    _feedback,
    _ledger,
    _observations,
    _outcomes,
    _requests,
    _routing,
)
from foretell.store._config_versions import ConfigVersion
from foretell.store._database import Database
from foretell.store._domains import DomainCounts
from foretell.store._ledger import Spent
from foretell.store._vectors import Shards


class Store:
    """Durable observations, outcomes and requests, safe for many threads and processes.

    What a method that writes has returned from survives a crash. Vectors are written to their
    Parquet file before the rows that name it, so a crash in between leaves a file that nothing
    names, never a row without its vectors. Methods wait for the disk: event loops call them in
    a thread. All errors are ``StoreError`` unless a method says otherwise. Use as a context
    manager, or call ``close``.
    """

    def __init__(self, database: Database, shards: Shards, clock: Callable[[], float]) -> None:
        self._database = database
        self._shards = shards
        self._clock = clock

    @classmethod
    def open(
        cls, url: str, vectors: str | Path, *, clock: Callable[[], float] = time.time
    ) -> Store:
        """Open a store; create it, or bring its tables up to date, when needed.

        Args:
            url: SQLAlchemy's URL of the database, such as ``sqlite:///foretell.db``.
            vectors: Folder of the Parquet files.
            clock: Seconds since 1970 (UTC), recorded beside all that is stored.
        """
        shards = Shards(Path(vectors))
        return cls(Database(url), shards, clock)

    def append(self, observations: Sequence[Observation]) -> int:
        """Store observations, all or none, and return how many were new.

        One that is stored already (same domain, query, role, model and rollout) stays as it was:
        its answer may have been labelled. A query's reference, group, split and attributes
        follow the latest observation. Vectors take one Parquet file per call, model and set of
        read points, so append dozens of observations at a time. They are kept as float16.

        Raises:
            InputError: A query was stored before, under the same id, with other messages.
            StoreError: Also for vectors with NaN or infinite values.
        """
        return _observations.append(
            self._database, self._shards, observations, recorded_at=self._clock()
        )

    def observed(self, domain: str, role: Role, model_key: str, rollout: int = 0) -> set[str]:
        """Ids of the queries that a model has answered: what a second run may skip.

        ``model_key`` is ``store.model_key`` of the model's identity or API name.
        """
        return _observations.observed(self._database, domain, role, model_key, rollout)

    def put_outcomes(self, outcomes: Iterable[Outcome], *, model_key: str | None = None) -> None:
        """Store outcomes, all or none; each replaces the earlier one of the same key.

        An outcome judges the answer of one model: of ``model_key``, or else of the model that
        answered the query last in the outcome's role. Other weights need labels of their own.

        Raises:
            InputError: Outcomes of queries that are not stored, with their number.
        """
        _outcomes.put(self._database, outcomes, model_key=model_key, recorded_at=self._clock())

    def outcomes(self, domain: str) -> Mapping[str, list[Outcome]]:
        """All outcomes of a domain, by the key of the model that answered; ``""`` when none had."""
        return _outcomes.by_model(self._database, domain)

    def observations(self, domain: str, role: Role | None = None) -> Iterator[Observation]:
        """Observations in the order they were stored, without their vectors.

        Those appended while iterating may or may not come.
        """
        return _observations.in_order(self._database, domain, role)

    def queries(self, domain: str) -> list[Query]:
        """The queries of a domain, by id."""
        with self._database.transaction() as connection:
            return _routing.queries_of(connection, domain)

    def metrics(self, domain: str) -> list[str]:
        """Names of the metrics that the domain's answers are labelled by."""
        return _outcomes.metrics(self._database, domain)

    def load_routing_data(
        self,
        domain: str,
        *,
        metric: str | None = None,
        read_points: Sequence[ReadPoint] | None = None,
        split: Split | None = None,
        weak_model: str | None = None,
        strong_model: str | None = None,
    ) -> RoutingData:
        """The queries of a domain that the weak model has answered, as columns, by id.

        ``weak`` and ``strong`` hold the outcome of each query by ``metric``, NaN where there is
        none: of the most trusted source (human, then code, judge, client), averaged over its
        authors. What a prefill showed is that of the first rollout with vectors. Where the own
        tokens are not known, ``lengths`` holds all tokens of the prompt.

        Args:
            domain: Which domain.
            metric: Which outcomes; may be left out when the domain has one metric, or none.
            read_points: Which activations; when left out, the pooled ones that every query has
                (those of pooling ``tokens`` are large, so they are named or not loaded). Queries
                that lack one of the given points (an early exit) are left out, which is logged.
            split: Only the queries of one side of ``split_of``.
            weak_model: Key of the weak model, needed when several have answered.
            strong_model: Key of the strong model, needed when answers of several are labelled.

        Raises:
            TrainingDataError: No weak observation; several models where one was wanted, with
                their counts; a metric that the domain does not have.
            UnknownReadPointError: A read point that no observation has.
            InputError: Groups on both sides of the split.
        """
        with self._database.transaction() as connection:
            return _routing.load(
                connection,
                self._shards,
                _routing.Wanted(
                    domain=domain,
                    metric=metric,
                    read_points=None if read_points is None else tuple(read_points),
                    split=split,
                    weak_model=weak_model,
                    strong_model=strong_model,
                ),
            )

    def read_points(self, domain: str, *, weak_model: str | None = None) -> list[ReadPoint]:
        """Read points at which any weak observation of the domain has activations, sorted."""
        return _observations.read_points(self._database, self._shards, domain, weak_model)

    def domains(self) -> list[DomainCounts]:
        """What is stored, by domain, in the order of their names."""
        return _domains.counts(self._database)

    def delete_domain(self, domain: str) -> int:
        """Erase all of a domain, vectors too, and return how many queries it had."""
        return _domains.erase(self._database, self._shards, domain)

    def append_requests(self, records: Sequence[RequestRecord]) -> None:
        """Store what was served, all or none; one whose id is stored already stays as it was.

        Callers that must not wait put records into a ``Recorder`` instead.
        """
        _requests.append(self._database, records)

    def request(self, request_id: str) -> RequestRecord | None:
        """The record of one request, ``None`` when none is stored under this id."""
        return _requests.find(self._database, request_id)

    def requests(
        self,
        *,
        since: float | None = None,
        key_id: str | None = None,
        route: str | None = None,
        limit: int = 100,
    ) -> list[RequestRecord]:
        """At most ``limit`` records, newest first.

        Args:
            since: Only those at this time, seconds since 1970 (UTC), or later.
            key_id: Only those of this key; ``""`` is who needed none.
            route: Only those of this route.
            limit: The most to return.
        """
        return _requests.newest(
            self._database, since=since, key_id=key_id, route=route, limit=limit
        )

    def delete_requests(self, *, before: float | None = None, key_id: str | None = None) -> int:
        """Erase records, with the feedback on them, and return how many there were.

        Args:
            before: Only those earlier than this time, seconds since 1970 (UTC).
            key_id: Only those of this key.

        Raises:
            InputError: Neither was given.
        """
        return _requests.erase(self._database, before=before, key_id=key_id)

    def ledger(self, *, since_day: str | None = None) -> list[LedgerLine]:
        """What was served and spent, by day (UTC), key and route, in that order.

        A request counts as kept or escalated by its action; where chance took the action
        (``explore``), by the role that answered. Forced and bypassed ones are only in
        ``requests``. A request whose ``cost_usd`` is ``None`` counts as ``unpriced`` and is in
        neither ``cost_usd`` nor ``always_strong_usd``.

        ``always_strong_usd`` is what the requests in ``cost_usd`` would have cost without
        routing: the sum of their own ``always_strong_usd`` and, where that is ``None``, of what
        they did cost. So ``net_saving_usd`` is the saving over exactly those requests of which
        both costs are known; others neither add to it nor take from it.

        Args:
            since_day: Only this day, such as ``2026-03-01``, and later ones.

        Raises:
            InputError: ``since_day`` is not a day.
        """
        return _ledger.lines(self._database, since_day=since_day)

    def spent_today(
        self, key_id: str | None = None, now: float | None = None, *, route: str | None = None
    ) -> Spent:
        """Known dollars and the escalations of this day (UTC), as far as its requests are stored.

        Args:
            key_id: Only requests of this key; ``""`` is who needed none, ``None`` is everybody.
            now: A time within the day, seconds since 1970 (UTC); the store's clock when ``None``.
            route: Only requests of this route.
        """
        now = self._clock() if now is None else now
        return _ledger.spent(self._database, now=now, key_id=key_id, route=route)

    def put_feedback(self, feedback: Feedback, *, key_id: str) -> Literal["created", "replaced"]:
        """Store feedback on a request, in the place of any by the same metric, source and author.

        It may come as late as it likes, but not before the record of its request: with a
        ``Recorder``, call its ``flush`` first, which returns at once when nothing is queued.

        Args:
            feedback: What is said.
            key_id: Key of who says it, whose own the request must be; ``""`` may speak of any.

        Raises:
            InputError: No such request; in the same words when it is that of another key. Or a
                text holds characters that no database takes.
        """
        return _feedback.put(self._database, feedback, key_id=key_id, recorded_at=self._clock())

    def feedback(self, request_id: str) -> list[Feedback]:
        """All feedback on a request, in the order of metric, source and author."""
        return _feedback.of_request(self._database, request_id)

    def delete_feedback(
        self, request_id: str, *, metric: str, source: str, author: str = "", key_id: str
    ) -> bool:
        """Take feedback back; ``False`` when there was none, or the request is of another key.

        ``key_id`` is as in ``put_feedback``.
        """
        return _feedback.erase(
            self._database, request_id, metric=metric, source=source, author=author, key_id=key_id
        )

    def create_key(self, name: str, limits: KeyLimits | None = None) -> tuple[ApiKey, str]:
        """Make an API key; the second value is the key itself, which nobody can show again.

        Raises:
            InputError: The name is empty or not printable, or a limit allows nothing or is not
                a number.
        """
        return _api_keys.create(self._database, name, limits or KeyLimits(), at=self._clock())

    def keys(self) -> list[ApiKey]:
        """All API keys, revoked ones too, oldest first."""
        return _api_keys.all_keys(self._database)

    def revoke_key(self, key_id: str) -> ApiKey:
        """Make an API key useless from now on; one that was revoked before stays as it was.

        Raises:
            InputError: No key has this id.
        """
        return _api_keys.revoke(self._database, key_id, at=self._clock())

    def key_by_sha256(self, sha256: str) -> ApiKey | None:
        """The API key with this ``key_sha256``; ``None`` when there is none or it was revoked."""
        return _api_keys.by_sha256(self._database, sha256)

    def put_config_version(
        self, config_hash: str, text: str, by: str, at: float | None = None
    ) -> bool:
        """Keep a configuration that came into force; ``False`` when the newest one is the same.

        Args:
            config_hash: What tells this text from others.
            text: The configuration; it holds no secrets.
            by: Who or what brought it.
            at: Since when, seconds since 1970 (UTC); the store's clock when ``None``.
        """
        at = self._clock() if at is None else at
        return _config_versions.put(self._database, config_hash, text, by, at)

    def config_versions(self) -> list[ConfigVersion]:
        """Configurations that were in force, newest first."""
        return _config_versions.all_versions(self._database)

    def close(self) -> None:
        """Close the database; safe to call twice."""
        self._database.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
