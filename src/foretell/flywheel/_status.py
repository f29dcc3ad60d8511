"""Where the flywheel stands, domain by domain, in numbers and in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from foretell.config import Config
from foretell.errors import InputError
from foretell.flywheel._alarms import alarm_states
from foretell.flywheel._duty_state import (
    DomainState,
    cared_for,
    newest_jobs,
    routes_of,
    state_of_domain,
)
from foretell.flywheel._live_quality import LiveQuality, quality_of_route
from foretell.flywheel._traffic_labels import metric_of
from foretell.flywheel._triggers import refit_outlook
from foretell.records import Event, Job
from foretell.runtime import ladder_subject
from foretell.store import Store

_JUDGED: Final = ("promoted", "refused", "rolled_back", "shadow")


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteStatus:
    """How one route decides in a domain, and how its answers do.

    ``step`` is ``None`` where it has no ladder, ``quality`` where nothing was served.
    """

    route: str
    router: str
    step: str | None
    words: str
    quality: LiveQuality | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainStatus:
    """How a domain stands.

    Attributes:
        domain: Which.
        routes: Those that serve it.
        labels: Answers of the weak model that were judged, by who judged them.
        labelling: Who labels its traffic, or why nobody does.
        serving: Version of the probe that serves.
        shadow: Version of the probe that is on trial.
        alarms: By name, whether it is raised.
        refit: When the last probe was trained and what starts the next, in words.
        judged: The last decision about a probe: promoted, refused, rolled back, put on trial.
        jobs: The newest job of each kind that is not over, or failed.
    """

    domain: str
    routes: tuple[RouteStatus, ...]
    labels: Mapping[str, int]
    labelling: str
    serving: int | None
    shadow: int | None
    alarms: Mapping[str, bool]
    refit: str
    judged: Event | None
    jobs: tuple[Job, ...]


def flywheel_status(store: Store, config: Config, *, now: float) -> list[DomainStatus]:
    """How each domain stands that a route serves and of which something is stored."""
    jobs = newest_jobs(store)
    return [
        _status(store, state_of_domain(store, config, domain, jobs, now))
        for domain in cared_for(config, store)
    ]


def _status(store: Store, state: DomainState) -> DomainStatus:
    config, domain = state.config, state.domain
    judged = [
        event for kind in _JUDGED for event in store.events(kind=kind, subject=domain, limit=1)
    ]
    return DomainStatus(
        domain=domain,
        routes=tuple(
            RouteStatus(
                route=name,
                router=route.router,
                step=state.steps.get(name),
                words=_on_ladder(store, state, name)
                if name in state.steps
                else _fixed(state, route.router),
                quality=_quality(store, config, domain, name),
            )
            for name, route in routes_of(config, domain).items()
        ),
        labels=store.label_counts(domain),
        labelling=_labelling(config, domain),
        serving=state.serving,
        shadow=state.shadow,
        alarms=alarm_states(store, domain),
        refit=refit_outlook(state),
        judged=max(judged, key=lambda event: event.at, default=None),
        jobs=tuple(job for job in state.jobs.values() if job.state != "done"),
    )


def _quality(store: Store, config: Config, domain: str, route: str) -> LiveQuality | None:
    """How well a route's answers do; ``None`` also while its labeller cannot be made."""
    try:
        metric = metric_of(config, domain)
    except InputError:
        return None  # `labelling` says why
    return quality_of_route(store, domain, route, metric=metric)


def _on_ladder(store: Store, state: DomainState, route: str) -> str:
    """What the last look at a route's ladder found."""
    last = state.jobs.get("ladder")
    if last is not None and route in last.result.get("routes", {}):
        return str(last.result["routes"][route]["words"])
    subject = ladder_subject(route, state.domain)
    for event in store.events(kind="ladder", subject=subject, limit=1):
        return str(event.details.get("words", state.steps[route]))
    return f"{state.steps[route]}: nothing was compared yet; a worker does so once there are labels"


def _fixed(state: DomainState, router: str) -> str:
    if router != "probe":
        return f"{router}, whatever the evidence says; router: auto moves by itself"
    if state.serving is None:
        return "probe: none serves yet, so every query is declined"
    return f"probe: version {state.serving} serves"


def _labelling(config: Config, domain: str) -> str:
    chosen = config.flywheel.labellers.get(domain)
    if chosen is None:
        return (
            f"nobody labels its traffic but callers by their feedback; set "
            f"flywheel.labellers.{domain}, or label by hand (foretell label)"
        )
    try:
        metric_of(config, domain)
    except InputError as error:
        return f"nobody, since {error}"
    if chosen.name != "feedback" and not config.store.traffic.text:
        return f"{chosen.name} cannot label traffic, whose text is not kept; set store.traffic.text"
    return chosen.name
