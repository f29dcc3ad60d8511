"""What the store says of a domain, as far as it decides what is to be done there next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from foretell.config import Config, RouteConfig
from foretell.flywheel._queue import domain_of
from foretell.records import Event, Job
from foretell.runtime import serving_version, shadow_version, standing_of
from foretell.store import Store

_HISTORY: Final = 2_000
_NEWEST: Final = 50
_NO_METRIC: Final = ""
"""Of requests whose outcomes are not looked at: several metrics would be too many."""
TOLD: Final = ("drift", "promoted", "refused", "rolled_back", "stale")
"""Kinds of events that a webhook is told of."""

SETTLED_S: Final = 5.0
"""Younger events are left for later: a machine whose clock is behind may yet note one."""
_NEWS_S: Final = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainState:
    """How a domain stands; of the store as a whole where ``domain`` is ``""``.

    Nothing here is remembered by a worker, so any of them can go on where another stopped.

    Attributes:
        domain: Which.
        config: All settings.
        now: Seconds since 1970 (UTC).
        jobs: The newest job of each kind; one that is older than some thousand others counts as
            never done.
        labels: Answers of the weak model with an outcome.
        labels_of_callers: Those of them that follow from feedback.
        weak_model: Key of the weak model that answered last; ``""`` when that is not known.
        unseen: Requests since the last look for drift, counted up to what makes another worth it;
            of the store as a whole, since vectors were last gathered, counted up to one.
        to_label: Whether there are requests or feedback that no labelling has looked at.
        steps: By route of ``router: auto``, the step that is in force.
        has_probe_route: Whether a route serves the domain by a probe whatever the evidence says.
        serving: Version of the probe that serves.
        shadow: Version of the probe that is on trial.
        refit: The last ``refit`` event.
        drift: What began last of the alarms that are raised about the probe that serves.
        untold: Events that a webhook was not told of.
        told_until: Time of the events it was told of.
    """

    domain: str
    config: Config
    now: float
    jobs: Mapping[str, Job] = field(default_factory=dict[str, Job])
    labels: int = 0
    labels_of_callers: int = 0
    weak_model: str = ""
    unseen: int = 0
    to_label: bool = False
    steps: Mapping[str, str] = field(default_factory=dict[str, str])
    has_probe_route: bool = False
    serving: int | None = None
    shadow: int | None = None
    refit: Event | None = None
    drift: Event | None = None
    untold: int = 0
    told_until: float = 0.0

    @property
    def every_s(self) -> float:
        """How often a worker looks."""
        return self.config.flywheel.every_s

    @property
    def noted(self) -> Mapping[str, Any]:
        """What a job that is asked for now is to remember of how things stood."""
        if not self.domain:
            return {"since": self.told_until, "until": self.now - SETTLED_S}
        return {
            "labels": self.labels,
            "weak_model": self.weak_model,
            "version": self.shadow,
            "serving": self.serving,
        }


def cared_for(config: Config, store: Store) -> list[str]:
    """Domains of which something is stored and that a route serves."""
    named = {route.domain for route in config.routes.values() if isinstance(route.domain, str)}
    stored = [counts.domain for counts in store.domains() if counts.weak or counts.strong]
    if all(isinstance(route.domain, str) for route in config.routes.values()):
        return [domain for domain in stored if domain in named]
    # A route that finds the domain by itself, or is told it by its callers, serves all of them.
    return stored


def routes_of(config: Config, domain: str) -> Mapping[str, RouteConfig]:
    """Routes that serve a domain, by name: those of that domain alone, and those of any."""
    return {
        name: route
        for name, route in config.routes.items()
        if route.domain == domain or not isinstance(route.domain, str)
    }


def weak_model_of(store: Store, domain: str) -> str:
    """Key of the weak model that was asked last; ``""`` when no traffic says."""
    newest = store.traffic(domain, metric=_NO_METRIC, limit=_NEWEST)
    seen = [key for key in newest.weak_models if key]
    return seen[-1] if seen else ""


def newest_jobs(store: Store) -> Mapping[tuple[str, str], Job]:
    """The newest job of each kind and domain."""
    found = dict[tuple[str, str], Job]()
    for job in store.jobs(limit=_HISTORY):
        found.setdefault((domain_of(job), job.kind), job)
    return found


def state_of_domain(
    store: Store, config: Config, domain: str, jobs: Mapping[tuple[str, str], Job], now: float
) -> DomainState:
    """How a domain stands now; ``jobs`` are the ``newest_jobs``."""
    of_domain = {kind: job for (whose, kind), job in jobs.items() if whose == domain}
    weak_model, counts = weak_model_of(store, domain), store.label_counts(domain)
    routes = routes_of(config, domain)
    labelled_at, watched_at = _begun(of_domain, "label"), _begun(of_domain, "drift")
    step = look_after(config.flywheel.drift.window)
    folder = config.probes.dir
    serving = serving_version(folder, domain)
    return DomainState(
        domain=domain,
        config=config,
        now=now,
        jobs=of_domain,
        labels=sum(counts.values()),
        labels_of_callers=counts.get("client", 0),
        weak_model=weak_model,
        unseen=_requests(store, domain, since=watched_at, most=step),
        to_label=bool(
            _requests(store, domain, since=labelled_at, most=1)
            or store.votes(domain, since=labelled_at)
        ),
        steps={
            name: standing_of(store, name, domain, weak_model).step
            for name, route in routes.items()
            if route.router == "auto"
        },
        has_probe_route=any(route.router == "probe" for route in routes.values()),
        serving=serving,
        shadow=shadow_version(folder, domain),
        refit=next(iter(store.events(kind="refit", subject=domain, limit=1)), None),
        drift=_last_alarm(store, domain, serving),
    )


def state_of_store(
    store: Store, config: Config, jobs: Mapping[tuple[str, str], Job], now: float
) -> DomainState:
    """How the store as a whole stands; ``jobs`` are the ``newest_jobs``."""
    of_store = {kind: job for (whose, kind), job in jobs.items() if not whose}
    since = told_until(of_store.get("webhook"), now)
    untold: list[Event] = []
    if config.flywheel.webhook is not None:
        untold = events_between(store, since, now - SETTLED_S)
    compacted_at = _begun(of_store, "compaction")
    return DomainState(
        domain="",
        config=config,
        now=now,
        jobs=of_store,
        unseen=len(store.requests(since=compacted_at, limit=1)),
        untold=len(untold),
        told_until=since,
    )


def told_until(last: Job | None, now: float) -> float:
    """Up to when a webhook was told of events; what failed in the end is told with the next.

    Where it never was told of any, what is older than an hour is no news.
    """
    if last is None:
        return now - _NEWS_S
    return float(last.args["since" if last.state == "failed" else "until"])


def events_between(store: Store, since: float, until: float) -> list[Event]:
    """Events that a webhook is told of, oldest first: from ``since`` until before ``until``."""
    found = [
        event
        for kind in TOLD
        for event in store.events(kind=kind, since=since, limit=_HISTORY)
        if event.at < until
    ]
    return sorted(found, key=lambda event: event.at)


def look_after(window: int) -> int:
    """How many new requests make another look for drift worth it: a fifth of the window."""
    return max(1, window // 5)


def remembered(job: Job | None, name: str) -> Any:
    """What a job noted of how things stood; ``None`` where there was none, or it did not."""
    return None if job is None else job.result.get(name, job.args.get(name))


def _requests(store: Store, domain: str, *, since: float | None, most: int) -> int:
    return len(store.traffic(domain, since=since, metric=_NO_METRIC, limit=most))


def _begun(jobs: Mapping[str, Job], kind: str) -> float | None:
    job = jobs.get(kind)
    return None if job is None else job.created_at


def _last_alarm(store: Store, domain: str, serving: int | None) -> Event | None:
    """What began last of the alarms that are raised about the probe that serves now."""
    probe = f"{domain}@{serving}"
    found: list[Event] = []
    for kind in ("drift", "stale"):
        events = store.events(kind=kind, subject=domain, limit=_NEWEST)
        if events and (events[0].details.get("raised") or events[0].details.get("alarm")):
            began = (event for event in events if event.details.get("alarm"))
            found += [event for event in began if event.details.get("probe") == probe][:1]
    return max(found, key=lambda event: event.at, default=None)
