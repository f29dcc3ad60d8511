"""The store: what was observed, how it went, what was served, and the vectors that were read."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from foretell.records import (
    ApiKey,
    Basis,
    Event,
    Feedback,
    Job,
    JobState,
    KeyLimits,
    LedgerLine,
    Observation,
    Origin,
    Outcome,
    Query,
    ReadPoint,
    RequestRecord,
    Role,
    RoutingData,
    Split,
    TrafficLog,
    Vote,
)
from foretell.store import (
    _api_keys,
    _check,
    _compaction,
    _config_versions,
    _domains,
    _erasure,
    _events,
    _export,
    _facts,
    _feedback,
    _jobs,
    _ledger,
    _observations,
    _outcomes,
    _requests,
    _retention,
    _routing,
    _traffic,
)
from foretell.store._check import StoreCheck
from foretell.store._cipher import Cipher
from foretell.store._compaction import Compacted
from foretell.store._config_versions import ConfigVersion
from foretell.store._database import Database
from foretell.store._domains import DomainCounts, TenantCounts
from foretell.store._erasure import Erased
from foretell.store._export import ExportFormat
from foretell.store._ledger import Spent
from foretell.store._reading import asks_again
from foretell.store._traffic import RecentVectors
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
        cls,
        url: str,
        vectors: str | Path,
        *,
        clock: Callable[[], float] = time.time,
        key: bytes | None = None,
    ) -> Store:
        """Open a store; create it, or bring its tables up to date, when needed.

        Args:
            url: SQLAlchemy's URL of the database, such as ``sqlite:///foretell.db``.
            vectors: Folder of the Parquet files.
            clock: Seconds since 1970 (UTC), recorded beside all that is stored.
            key: 32 bytes that texts and vectors are encrypted with (see ``store_key``); the one
                that the store was made with. Needs the extra ``encrypt``.

        Raises:
            StoreError: Also for a key where there is none, none where there is one, or another.
        """
        cipher = None if key is None else Cipher(key)
        shards = Shards(Path(vectors), cipher=cipher, clock=clock)
        return cls(Database(url, cipher=cipher), shards, clock)

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

    def append_traffic(
        self, records: Sequence[RequestRecord], observations: Sequence[Observation] = ()
    ) -> None:
        """Store what was served and what it showed, all or none, but not the vectors.

        What is stored already stays as it was. Vectors of single requests would make tiny files:
        gather some, then call ``append_vectors``. A ``Recorder`` does all of it.

        Raises:
            InputError: As ``append``.
        """
        if not records and not observations:
            return
        with self._database.transaction(write=True) as connection:
            _requests.append(self._database, connection, records)
            _observations.append_bare(
                self._database, connection, observations, recorded_at=self._clock()
            )

    def append_vectors(self, observations: Sequence[Observation]) -> int:
        """Add the vectors of observations that ``append_traffic`` stored; return of how many.

        Observations that were erased since, or have vectors already, are passed over.
        """
        return _observations.append_vectors(self._database, self._shards, observations)

    def answered_by(self, domain: str, role: Role) -> Mapping[str, int]:
        """Answers of a domain in a role, by the key of the model that gave them."""
        return _observations.answered_by(self._database, domain, role)

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

    def delete_outcomes(self, outcomes: Iterable[Outcome], *, model_key: str | None = None) -> int:
        """Take outcomes back, all or none, and return how many there were.

        Each by its domain, query, role, metric, source and author; its value and note do not
        matter. ``model_key`` says whose answer was judged; left out, that does not matter either.
        """
        return _outcomes.erase(self._database, outcomes, model_key=model_key)

    def unlabelled(
        self, domain: str, metric: str, role: Role = "weak", source: str | None = None
    ) -> set[str]:
        """Ids of the queries with an answer in a role that has no outcome by ``metric``.

        An outcome without a value counts: somebody looked, and could not tell.

        Args:
            domain: Which domain.
            metric: By which metric.
            role: Whose answers.
            source: Only outcomes of this source count.
        """
        return _outcomes.unlabelled(self._database, domain, metric, role, source)

    def label_counts(self, domain: str, role: Role = "weak") -> Mapping[str, int]:
        """How many answers in a role each source of outcomes has judged."""
        return _outcomes.counts(self._database, domain, role)

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

    @asks_again
    def load_routing_data(
        self,
        domain: str,
        *,
        metric: str | None = None,
        read_points: Sequence[ReadPoint] | None = None,
        split: Split | None = None,
        weak_model: str | None = None,
        strong_model: str | None = None,
        since: float | None = None,
        sources: Sequence[str] | None = None,
        origins: Sequence[Origin] | None = None,
    ) -> RoutingData:
        """The queries of a domain that the weak model has answered, as columns, by id.

        ``weak`` and ``strong`` hold the outcome of each query by ``metric``, NaN where there is
        none: of the most trusted source (human, then code, judge, client), averaged over its
        authors. What a prefill showed is that of the first rollout with vectors. Where the own
        tokens are not known, ``lengths`` holds all tokens of the prompt. ``weak_chance`` is that
        of the request for ``traffic``, and 1 for all else.

        Args:
            domain: Which domain.
            metric: Which outcomes; may be left out when the domain has one metric, or none.
            read_points: Which activations; when left out, the pooled ones that every query has
                (those of pooling ``tokens`` are large, so they are named or not loaded), but for
                traffic of which none were kept, which is left out. Queries
                that lack one of the given points (an early exit) are left out, which is logged.
            split: Only the queries of one side of ``split_of``.
            weak_model: Key of the weak model, needed when several have answered.
            strong_model: Key of the strong model, needed when answers of several are labelled.
            since: Only what was observed then, in seconds since 1970 (UTC), or later.
            sources: Only outcomes of these sources count.
            origins: Only queries that came to be stored in one of these ways.

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
                    since=since,
                    sources=None if sources is None else tuple(sources),
                    origins=None if origins is None else tuple(origins),
                ),
            )

    @asks_again
    def read_points(self, domain: str, *, weak_model: str | None = None) -> list[ReadPoint]:
        """Read points at which any weak observation of the domain has activations, sorted."""
        return _observations.read_points(self._database, self._shards, domain, weak_model)

    def put_subspace(self, subspace_id: str, bases: Mapping[ReadPoint, Basis]) -> None:
        """Keep the bases that vectors are reduced to, before any such observation is stored.

        Reading restores those vectors to their width. One that is kept already stays as it is.

        Raises:
            InputError: The id is no plain name, or there is no basis.
        """
        self._shards.subspaces.put(subspace_id, bases)

    def domains(self) -> list[DomainCounts]:
        """What is stored, by domain, in the order of their names."""
        return _domains.counts(self._database)

    def tenants(self) -> list[TenantCounts]:
        """What is stored of each API key's owner, in the order of their ids."""
        return _domains.tenants(self._database)

    def size(self) -> int:
        """Bytes of all rows and vectors."""
        return self._database.size() + self._shards.size()

    def delete_domain(self, domain: str) -> int:
        """Erase all of a domain, vectors too, and return how many queries it had."""
        return self.erase(domain=domain).queries

    def erase(
        self,
        *,
        tenant: str | None = None,
        request_ids: Sequence[str] | None = None,
        domain: str | None = None,
    ) -> Erased:
        """Erase what all of the given conditions hold for, vectors too, and return how much it was.

        Their rows are gone from the files that hold vectors: those are written anew. All is
        erased or nothing; a crash leaves at most files that ``check`` names. Requests are erased
        with their feedback, but for a ``domain`` alone, whose ledger stays.

        Args:
            tenant: Id of an API key; ``""`` is who needed none.
            request_ids: Ids of requests, and so of the queries of traffic.
            domain: Name of a domain.

        Raises:
            InputError: None of them was given.
        """
        return _erasure.erase(
            self._database,
            self._shards,
            tenant=tenant,
            request_ids=request_ids,
            domain=domain,
        )

    def retain(self, *, days: float | None = None, max_bytes: int | None = None) -> Erased:
        """Erase traffic that is old, then the oldest while there is too much; vectors too.

        What was collected or imported stays. It is done in batches, so that others can write in
        between; a crash leaves what was not erased yet.

        Args:
            days: How long requests, and what they showed, are kept.
            max_bytes: Most bytes of the database's rows and the vectors together.

        Raises:
            InputError: A limit that is not above 0.
        """
        return _retention.retain(
            self._database, self._shards, now=self._clock(), days=days, max_bytes=max_bytes
        )

    def compact(self) -> Compacted:
        """Merge small files of vectors, which traffic makes many of; others may read and write."""
        return _compaction.compact(self._database, self._shards)

    def check(self, *, repair: bool = False) -> StoreCheck:
        """Compare the database with the files of vectors, their checksums and their manifest.

        Args:
            repair: Remove what a crash left, and list what is not in the manifest. On PostgreSQL
                only files older than an hour go: others may be about to name them.
        """
        return _check.check(self._database, self._shards, now=self._clock(), repair=repair)

    def export(
        self,
        folder: str | Path,
        *,
        domain: str | None = None,
        format: ExportFormat = "parquet",  # noqa: A002
    ) -> list[Path]:
        """Write what is stored to files in ``folder``, decrypted, and return their paths.

        One for each of ``queries``, ``observations``, ``outcomes``, ``requests`` and ``feedback``.
        With ``parquet``, what is JSON is a column of text, and the folder ``activations`` holds the
        vectors in files that join ``observations`` on ``domain``, ``query_id``, ``role``,
        ``model_key`` and ``rollout``. Where their ``subspace`` is not empty they are coordinates in
        the one of that name, a file in the folder ``subspaces``.

        Args:
            folder: Where to: it is made, or empty.
            domain: Only this one.
            format: ``parquet``, or ``jsonl`` for one object a line, without vectors.

        Raises:
            InputError: The folder is not empty.
        """
        return _export.export(
            self._database, self._shards, Path(folder), domain=domain, kind=format
        )

    def append_requests(self, records: Sequence[RequestRecord]) -> None:
        """Store what was served, all or none; one whose id is stored already stays as it was.

        Callers that must not wait put records into a ``Recorder`` instead.
        """
        self.append_traffic(records)

    def traffic(
        self,
        domain: str,
        *,
        since: float | None = None,
        until: float | None = None,
        route: str | None = None,
        metric: str | None = None,
        limit: int | None = None,
    ) -> TrafficLog:
        """Requests of a domain that a model of their route answered, as columns, oldest first.

        ``weak`` and ``strong`` hold outcomes of the two models' answers as in
        ``load_routing_data``, NaN where an answer was not seen, or not labelled.

        Args:
            domain: Which domain.
            since: Only requests at this time, seconds since 1970 (UTC), or later.
            until: Only requests before this time.
            route: Only requests of this route.
            metric: Which outcomes; may be left out when these requests have those of one metric.
            limit: Only so many, the newest.

        Raises:
            TrainingDataError: Outcomes by several metrics, of which none was chosen.
        """
        wanted = _traffic.Wanted(
            domain=domain, since=since, until=until, route=route, metric=metric, limit=limit
        )
        return _traffic.log(self._database, wanted)

    @asks_again
    def recent_vectors(
        self,
        domain: str,
        *,
        since: float | None = None,
        weak_model: str | None = None,
        limit: int = 1000,
    ) -> RecentVectors:
        """What the weak model's prefill showed of the newest requests, whoever answered them.

        Activations are those at the pooled read points that all of these requests have, so one
        prefill that stopped early leaves only the lower ones.

        Args:
            domain: Which domain.
            since: Only requests at this time, seconds since 1970 (UTC), or later.
            weak_model: Key of the weak model that was read; that of the newest request when
                ``None``.
            limit: The most to return.
        """
        return _traffic.recent_vectors(
            self._database,
            self._shards,
            domain,
            since=since,
            weak_model=weak_model,
            limit=limit,
        )

    def votes(self, domain: str, *, since: float | None = None) -> list[Vote]:
        """Feedback on the domain's requests, in the order in which it came.

        ``since`` is about when it was said. What was taken back is not there.
        """
        return _traffic.votes(self._database, domain, since)

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

    def decided(self, route: str, domain: str | None = None) -> int:
        """How many stored requests a route's own rule decided, of one domain or of all."""
        return _requests.decided(self._database, route, domain)

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

    def note(
        self,
        kind: str,
        subject: str,
        *,
        by: str,
        details: Mapping[str, Any],
        at: float | None = None,
    ) -> Event:
        """Note down something that was decided or noticed; nothing changes it afterwards.

        Args:
            kind: One word for it.
            subject: What it is about, such as a domain.
            by: Who or what did it.
            details: The numbers behind it: plain JSON, without NaN.
            at: When, in seconds since 1970 (UTC); the store's clock when ``None``.

        Raises:
            InputError: The details are not plain JSON.
        """
        at = self._clock() if at is None else at
        return _events.note(self._database, kind, subject, by=by, details=details, at=at)

    def events(
        self,
        *,
        kind: str | None = None,
        subject: str | None = None,
        since: float | None = None,
        limit: int = 100,
    ) -> list[Event]:
        """At most ``limit`` of what was noted, newest first; ``since`` as in ``requests``."""
        return _events.newest(self._database, kind=kind, subject=subject, since=since, limit=limit)

    def add_job(
        self, kind: str, args: Mapping[str, Any], *, by: str, not_before: float | None = None
    ) -> Job:
        """Ask for long work, which a worker claims.

        Args:
            kind: What is to be done.
            args: Of what; plain JSON.
            by: Who or what asks.
            not_before: No worker is given it earlier, in seconds since 1970 (UTC).

        Raises:
            InputError: The arguments are not plain JSON.
        """
        at = self._clock()
        not_before = at if not_before is None else not_before
        return _jobs.add(self._database, kind, args, by=by, not_before=not_before, at=at)

    def claim_job(self, worker: str, *, kinds: Collection[str], lease_s: float) -> Job | None:
        """Give a worker the oldest job that waits, or whose own worker died; no other gets it.

        A worker is taken for dead when it has not called ``beat_job`` for ``lease_s``. ``worker``
        is a name that no other has, not even the same one after a restart.
        """
        return _jobs.claim(self._database, worker, kinds=kinds, lease_s=lease_s, at=self._clock())

    def beat_job(
        self,
        job_id: int,
        progress: float | None = None,
        message: str = "",
        *,
        worker: str | None = None,
    ) -> bool:
        """Say that a job goes on, and how far it is, from 0 to 1.

        ``False`` when it is over, or no longer that of ``worker``, who must then let go of it.
        """
        return _jobs.beat(
            self._database,
            job_id,
            worker=worker,
            progress=progress,
            message=message,
            at=self._clock(),
        )

    def finish_job(
        self,
        job_id: int,
        *,
        result: Mapping[str, Any] | None = None,
        error: str | None = None,
        worker: str | None = None,
    ) -> bool:
        """End a running job, which has failed when there is an ``error``.

        ``False``, and nothing changes, when it is over or no longer that of ``worker``.
        """
        return _jobs.finish(
            self._database, job_id, worker=worker, result=result, error=error, at=self._clock()
        )

    def put_back_job(
        self, job_id: int, *, not_before: float, message: str = "", worker: str | None = None
    ) -> bool:
        """Let a running job wait for another try, no earlier than ``not_before``.

        ``False``, and nothing changes, when it is over or no longer that of ``worker``.
        """
        return _jobs.put_back(
            self._database, job_id, worker=worker, not_before=not_before, message=message
        )

    def job(self, job_id: int) -> Job | None:
        """One job, ``None`` when there is none of this id."""
        return _jobs.find(self._database, job_id)

    def jobs(self, *, state: JobState | None = None, limit: int = 50) -> list[Job]:
        """At most ``limit`` jobs, of one state if given, newest first."""
        return _jobs.newest(self._database, state=state, limit=limit)

    def open_jobs(self, kind: str, domain: str) -> list[Job]:
        """Jobs of a kind that wait or run for a domain (``""``: the whole store), oldest first."""
        return _jobs.unfinished(self._database, kind, domain)

    def salt(self) -> bytes:
        """Random bytes of this store's own, always the same, as a key of hashes."""
        return _facts.salt(self._database)

    def close(self) -> None:
        """Close the database; safe to call twice."""
        self._database.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
