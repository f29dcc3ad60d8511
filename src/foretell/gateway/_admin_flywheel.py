"""What the flywheel did and may do, for those who run the gateway: probes, events, jobs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, Final

from foretell.errors import RoutingError
from foretell.gateway._bodies import parse_json
from foretell.gateway._errors import ApiError
from foretell.gateway._fields import Field, refuse_unknown
from foretell.gateway._gateway import Gateway
from foretell.probes import ProbeCard, load_probe
from foretell.records import Event
from foretell.runtime import (
    probe_versions,
    promote,
    roll_back,
    serving_version,
    shadow_version,
    trained_domains,
)

_MOST: Final = 1000
_DEFAULT_LIMIT: Final = 100


async def probes(gateway: Gateway) -> dict[str, Any]:
    """Every version of every domain's probe, and which of them serves or is on trial."""
    folder = gateway.snapshot.config.probes.dir

    def read() -> list[dict[str, Any]]:
        return [
            {
                "domain": domain,
                "serving": serving_version(folder, domain),
                "shadow": shadow_version(folder, domain),
                "versions": [
                    _card(load_probe(folder / domain / str(version)).card)
                    for version in probe_versions(folder, domain)
                ],
            }
            for domain in trained_domains(folder)
        ]

    return {"object": "list", "data": await _of_files(read)}


async def promote_probe(gateway: Gateway, domain: str, body: bytes, *, by: str) -> dict[str, Any]:
    """Serve by a version from now on, whatever the evidence says of it."""
    raw = Field(parse_json(body))
    refuse_unknown(raw, ("version",), api="promote")
    version = raw.need("version").integer(1)
    folder = gateway.snapshot.config.probes.dir
    before = await _of_files(lambda: serving_version(folder, domain))
    await _of_files(lambda: promote(folder, domain, version))
    return await _changed(gateway, "promoted", domain, before, version, by=by)


async def roll_back_probe(gateway: Gateway, domain: str, *, by: str) -> dict[str, Any]:
    """Serve by the version before the one that serves."""
    folder = gateway.snapshot.config.probes.dir
    before = await _of_files(lambda: serving_version(folder, domain))
    version = await _of_files(lambda: roll_back(folder, domain))
    return await _changed(gateway, "rolled_back", domain, before, version, by=by)


async def events(gateway: Gateway, query: Mapping[str, str]) -> dict[str, Any]:
    """What was decided and noticed, newest first."""
    kind, subject, limit = query.get("kind"), query.get("subject"), _limit(query)
    found = await gateway.with_store(
        lambda store: store.events(kind=kind, subject=subject, limit=limit)
    )
    return {"object": "list", "data": [asdict(event) for event in found]}


async def jobs(gateway: Gateway, query: Mapping[str, str]) -> dict[str, Any]:
    """Long work: what waits, runs, is done and failed, newest first."""
    limit = _limit(query)
    found = await gateway.with_store(lambda store: store.jobs(limit=limit))
    return {"object": "list", "data": [asdict(job) for job in found]}


async def add_job(gateway: Gateway, body: bytes, *, by: str) -> dict[str, Any]:
    """Ask for a probe to be trained; a worker takes it up."""
    raw = Field(parse_json(body))
    refuse_unknown(raw, ("kind", "domain"), api="jobs")
    kind = raw.need("kind").one_of(("refit",))
    domain = raw.need("domain").text(longest=128, empty=False)
    job = await gateway.with_store(lambda store: store.add_job(kind, {"domain": domain}, by=by))
    return asdict(job)


async def _changed(
    gateway: Gateway, kind: str, domain: str, before: int | None, version: int, *, by: str
) -> dict[str, Any]:
    details = {"version": version, "before": before, "why": "asked for"}
    event: Event | None = None
    if gateway.store is not None:
        event = await gateway.with_store(
            lambda store: store.note(kind, domain, by=by, details=details)
        )
    await gateway.refresh(by=by)
    return {"domain": domain, "serving": version, "event": None if event is None else asdict(event)}


async def _of_files(work: Callable[[], Any]) -> Any:
    try:
        return await asyncio.to_thread(work)
    except RoutingError as error:
        raise ApiError(404, str(error), code="probe_not_found") from None


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


def _limit(query: Mapping[str, str]) -> int:
    given = query.get("limit", str(_DEFAULT_LIMIT))
    if not given.isascii() or not given.isdigit() or not 1 <= int(given) <= _MOST:
        raise ApiError(
            400, f"limit must be a number from 1 to {_MOST}", code="invalid_value", param="limit"
        )
    return int(given)
