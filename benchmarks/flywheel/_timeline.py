"""When what happened: steps of the ladder, probes, alarms, and how long each phase took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from benchmarks.flywheel._day import HOUR, MIDNIGHT, NOON_H, SWAP_H, Day
from benchmarks.flywheel._measures import Log

_SHOWN = ("ladder", "refit", "shadow", "promoted", "refused", "rolled_back", "drift", "stale")


def events_of(day: Day) -> list[dict[str, Any]]:
    """The flywheel's events in short, oldest first."""
    return [_short(event) for event in day.events if event["kind"] in _SHOWN]


def _short(event: Mapping[str, Any]) -> dict[str, Any]:
    details = event["details"]
    named = ("step", "came_from", "version", "name", "alarm", "value", "limit", "labels")
    return {
        "hour": round((event["at"] - MIDNIGHT) / HOUR, 3),
        "kind": event["kind"],
        **{key: details[key] for key in named if key in details},
        "words": str(details.get("why") or details.get("words") or ""),
    }


def phases(log: Log, events: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How long it took to climb, to notice, and to recover; ``None`` for what did not happen."""
    climbed = _first(events, "promoted", after=0)
    alarm = _first(events, "drift", after=NOON_H, alarm=True)
    anew = _first(events, "promoted", after=NOON_H)
    before_swap = log.between(SWAP_H - 2, SWAP_H).by_strong.mean()
    return {
        "first_step": _told(log, _first(events, "ladder", after=0, moved=True), 0.0),
        "first_probe": _told(log, climbed, 0.0),
        "first_alarm_after_noon": _told(log, alarm, NOON_H),
        "first_probe_after_noon": _told(log, anew, NOON_H),
        "first_step_after_swap": _told(
            log, _first(events, "ladder", after=SWAP_H, moved=True), SWAP_H
        ),
        "first_probe_after_swap": _told(log, _first(events, "promoted", after=SWAP_H), SWAP_H),
        "strong_share_before_swap": round(float(before_swap), 4),
        "strong_share_of_last_two_hours": round(float(log.between(22, 24).by_strong.mean()), 4),
    }


def _first(
    events: Sequence[Mapping[str, Any]],
    kind: str,
    *,
    after: float,
    alarm: bool | None = None,
    moved: bool = False,
) -> Mapping[str, Any] | None:
    for event in events:
        if event["kind"] != kind or event["hour"] <= after:
            continue
        if alarm is not None and event.get("alarm") is not alarm:
            continue
        if moved and not event.get("came_from"):
            continue
        return event
    return None


def _told(log: Log, event: Mapping[str, Any] | None, since: float) -> dict[str, Any] | None:
    if event is None:
        return None
    passed = int(np.sum((log.hour >= since) & (log.hour < event["hour"])))
    what = event.get("step") or event.get("name") or f"version {event.get('version')}"
    hours = round(event["hour"] - since, 3)
    return {"what": what, "hour": event["hour"], "hours": hours, "requests": passed}
