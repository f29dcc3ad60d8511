"""What the flywheel did and may do, for those who run the gateway: probes, events, jobs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from foretell.errors import InputError, RoutingError
from foretell.gateway._bodies import parse_json
from foretell.gateway._errors import ApiError
from foretell.gateway._fields import Field, query_limit, refuse_unknown
from foretell.gateway._gateway import Gateway
from foretell.probes import ProbeCard
from foretell.records import Event, Job
from foretell.runtime import (
    load_version,
    locked,
    probe_versions,
    promote,
    require_probes,
    roll_back,
    serving_version,
    shadow_version,
    trained_domains,
)
from foretell.store import Store

_logger = logging.getLogger(__name__)

_MOST: Final = 1000
_DEFAULT_LIMIT: Final = 100
_LONGEST_WHY: Final = 1000


async def probes(gateway: Gateway) -> dict[str, Any]:
    """Every version of every domain's probe, and which of them serves or is on trial."""
    folder = gateway.snapshot.config.probes.dir

    def read() -> list[dict[str, Any]]:
        return [_of_domain(folder, domain) for domain in trained_domains(folder)]

    return {"object": "list", "data": await asyncio.to_thread(read)}


async def promote_probe(gateway: Gateway, domain: str, body: bytes, *, by: str) -> dict[str, Any]:
    """Serve by a version from now on, whatever the evidence says of it."""
    raw = Field(parse_json(body))
    refuse_unknown(raw, ("version", "why"), api="promote")
    version = raw.need("version").integer(1)
    why = _why(raw, "promoted by hand")

    def move(folder: Path) -> int:
        promote(folder, domain, version)
        return version

    return await _changed(gateway, "promoted", domain, move, by=by, why=why)


async def roll_back_probe(gateway: Gateway, domain: str, body: bytes, *, by: str) -> dict[str, Any]:
    """Serve by the version before the one that serves; the body may be left out."""
    raw = Field(parse_json(body or b"{}"))
    refuse_unknown(raw, ("why",), api="rollback")
    why = _why(raw, "rolled back by hand")
    return await _changed(
        gateway, "rolled_back", domain, lambda folder: roll_back(folder, domain), by=by, why=why
    )


async def events(gateway: Gateway, query: Mapping[str, str]) -> dict[str, Any]:
    """What was decided and noticed, newest first."""
    kind, subject, limit = (
        query.get("kind"),
        query.get("subject"),
        query_limit(query, default=_DEFAULT_LIMIT, most=_MOST),
    )
    found = await gateway.with_store(
        lambda store: store.events(kind=kind, subject=subject, limit=limit)
    )
    return {"object": "list", "data": [asdict(event) for event in found]}


async def jobs(gateway: Gateway, query: Mapping[str, str]) -> dict[str, Any]:
    """Long work: what waits, runs, is done and failed, newest first."""
    limit = query_limit(query, default=_DEFAULT_LIMIT, most=_MOST)
    found = await gateway.with_store(lambda store: store.jobs(limit=limit))
    return {"object": "list", "data": [asdict(job) for job in found]}


async def add_job(gateway: Gateway, body: bytes, *, by: str) -> dict[str, Any]:
    """Ask for a probe to be trained; a worker takes it up. What waits or runs already is shown."""
    raw = Field(parse_json(body))
    refuse_unknown(raw, ("kind", "domain"), api="jobs")
    kind = raw.need("kind").one_of(("refit",))
    domain = raw.need("domain").text(longest=128, empty=False)

    def ask(store: Store) -> Job | None:
        if all(counts.domain != domain for counts in store.domains()):
            return None
        there = store.open_jobs(kind, domain)
        return there[0] if there else store.add_job(kind, {"domain": domain}, by=by)

    job = await gateway.with_store(ask)
    if job is None:
        raise ApiError(
            404,
            f"nothing is stored of domain {domain!r}, so nothing can be trained",
            code="domain_not_found",
            param="domain",
        )
    return asdict(job)


async def _changed(
    gateway: Gateway,
    kind: str,
    domain: str,
    move: Callable[[Path], int],
    *,
    by: str,
    why: str,
) -> dict[str, Any]:
    """Let another version serve, note it, and serve by it.

    A store that is gone keeps nobody from taking a bad probe back; then there is no event.
    """
    folder = gateway.snapshot.config.probes.dir

    def work() -> tuple[int | None, int]:
        require_probes(folder, domain)
        with locked(folder, domain):
            return serving_version(folder, domain), move(folder)

    try:
        before, version = await asyncio.to_thread(work)
    except InputError as error:
        raise ApiError(409, str(error), code="no_earlier_probe") from None
    except RoutingError as error:
        raise ApiError(404, str(error), code="probe_not_found") from None
    details = {"version": version, "before": before, "why": why}
    event: Event | None = None
    if gateway.store is not None:
        try:
            event = await gateway.with_store(
                lambda store: store.note(kind, domain, by=by, details=details)
            )
        except ApiError:
            _logger.error("%s@%d: %s by %s, which could not be noted", domain, version, kind, by)
    try:
        await gateway.refresh(by=by)
    except RoutingError as error:
        raise ApiError(
            422,
            f"{domain}@{version} is to serve, but this gateway cannot open it and goes on as it "
            f"was: {error}",
            code="probe_unusable",
        ) from None
    return {
        "domain": domain,
        "serving": version,
        "before": before,
        "event": None if event is None else asdict(event),
    }


def _of_domain(folder: Path, domain: str) -> dict[str, Any]:
    """A domain's versions; what cannot be read says why, and hides nothing else."""
    found: dict[str, Any] = {"domain": domain, "serving": None, "shadow": None}
    try:
        found["serving"] = serving_version(folder, domain)
        found["shadow"] = shadow_version(folder, domain)
    except RoutingError as error:
        found["error"] = str(error)
    found["versions"] = [
        _version(folder, domain, version) for version in probe_versions(folder, domain)
    ]
    return found


def _version(folder: Path, domain: str, version: int) -> dict[str, Any]:
    try:
        return _card(load_version(folder, domain, version).card)
    except RoutingError as error:
        return {"version": version, "error": str(error)}


def _why(raw: Field, otherwise: str) -> str:
    given = raw.get("why")
    return otherwise if given is None else given.storable(longest=_LONGEST_WHY, empty=False)


def _card(card: ProbeCard) -> dict[str, Any]:
    auroc = card.metrics.get("auroc")
    return {
        "version": card.version,
        "created": card.created,
        "model": str(card.model),
        "read_point": card.read_point.name,
        "queries": card.n_train,
        "auroc": None if auroc is None else auroc.value,
    }
