"""What was decided elsewhere and changes what a gateway serves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from foretell.config import Config
from foretell.errors import InputError
from foretell.evaluation import Interval
from foretell.flywheel._alarms import alarm_states
from foretell.flywheel._duty_state import cared_for, routes_of
from foretell.flywheel._live_quality import quality_of_route
from foretell.flywheel._traffic_labels import metric_of
from foretell.records import Event
from foretell.store import Store

_CHANGES: Final = frozenset(("promoted", "rolled_back", "refused", "shadow"))
_OVERLAP_S: Final = 60.0
"""How far back each look goes: a machine whose clock is behind notes events in the past."""
_MOST: Final = 1_000


class EventWatch:
    """Tells each event once that changes what is served, whoever noted it, on any machine."""

    def __init__(self, store: Store, *, now: float) -> None:
        """``now``, in seconds since 1970 (UTC): what is noted by now is in force already."""
        self._store = store
        self._since = now
        self._seen = set(self._recent())

    def news(self, now: float) -> list[Event]:
        """Events that were not told yet, oldest first."""
        recent = self._recent()
        found = [event for key, event in recent.items() if key not in self._seen]
        self._seen = set(recent)
        self._since = now
        return found

    def _recent(self) -> dict[tuple[str, str, float], Event]:
        events = self._store.events(since=self._since - _OVERLAP_S, limit=_MOST)
        return {
            (event.kind, event.subject, event.at): event
            for event in reversed(events)
            if changes_serving(event)
        }


def changes_serving(event: Event) -> bool:
    """Whether a gateway must open its probes, or a ladder's step, again."""
    moved = event.kind == "ladder" and event.details.get("came_from") is not None
    return moved or event.kind in _CHANGES


def quality_now(store: Store, config: Config) -> Mapping[tuple[str, str, str], float]:
    """By route, policy (``served``, ``always_strong``, ``always_weak``) and ``value/low/high``.

    Of a route that serves several domains, that of the first with labels; what is not known is left
    out.
    """
    found: dict[tuple[str, str, str], float] = {}
    for domain in cared_for(config, store):
        try:
            metric = metric_of(config, domain)
        except InputError:
            continue  # foretell flywheel status says why
        for route in routes_of(config, domain):
            quality = quality_of_route(store, domain, route, metric=metric)
            if quality is None or (route, "served", "value") in found:
                continue
            for policy in ("served", "always_strong", "always_weak"):
                interval: Interval = getattr(quality, policy)
                for bound in ("value", "low", "high"):
                    number: float | None = getattr(interval, bound)
                    if number is not None:
                        found[route, policy, bound] = number
    return found


def alarms_now(store: Store, config: Config) -> Mapping[tuple[str, str], bool]:
    """By domain and name, whether an alarm is raised."""
    return {
        (domain, name): raised
        for domain in cared_for(config, store)
        for name, raised in alarm_states(store, domain).items()
    }
