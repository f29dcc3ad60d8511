"""Alarms of a domain: what is compared, and what is noted when one begins or ends."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import numpy as np

from foretell.config import DriftConfig
from foretell.flywheel._drift import WatchedTraffic, watch
from foretell.flywheel._findings import DriftReport, Finding
from foretell.flywheel._reference import reference_of
from foretell.probes import SavedProbe
from foretell.records import TrafficLog
from foretell.runtime import early_probes, serving_probe, serving_version
from foretell.store import Store, model_key

_logger = logging.getLogger(__name__)

ALARMS: Final = ("calibration", "escalation", "scores", "stale", "vectors")
"""Names of all alarms."""

_FURTHER_BACK: Final = 10
"""Windows in which labels are looked for: those of the newest requests are still to come."""

_NAMED: Final = 5
_LAST: Final = 20


def watch_domain(
    store: Store,
    folder: Path,
    domain: str,
    config: DriftConfig,
    now: datetime,
    *,
    by: str = "drift watch",
    metric: str | None = None,
    seed: int = 0,
) -> DriftReport:
    """Look at a domain's recent traffic, and note alarms that begin or end.

    An alarm is noted as an event ``drift``, one about a probe that does not fit the weak model
    that answers as an event ``stale``: once when it begins and once when it ends. ``alarm`` in its
    details says which, the numbers are there, too.

    Args:
        store: Holds the traffic and the training queries.
        folder: Of all probes.
        domain: Which.
        config: What is compared, and where it becomes an alarm.
        now: Goes on the events.
        by: Who or what looks.
        metric: Which outcomes judge the chances where no probe serves; otherwise it is the probe's.
        seed: Decides folds, relabellings and resamples.

    Raises:
        ProbeFileError: The serving probe cannot be loaded.
        TrainingDataError: Traffic is labelled by several metrics, and none was chosen.
    """
    saved = None
    if serving_version(folder, domain) is not None:
        saved = serving_probe(folder, domain)
        metric = saved.card.label.metric
    log = store.traffic(domain, metric=metric, limit=_FURTHER_BACK * config.window)
    report = (
        DriftReport(findings=(), probe=saved.card.name, stale=stale)
        if saved is not None and (stale := stale_words(saved, log)) is not None
        else _compared(store, folder, domain, saved, log, config, np.random.default_rng(seed))
    )
    _note_stale(store, domain, report, by=by, at=now.timestamp())
    _note_alarms(store, domain, report, by=by, at=now.timestamp())
    return report


def alarm_states(store: Store, domain: str) -> Mapping[str, bool]:
    """Which alarms of a domain are raised now, by name; all names are there."""
    raised = set(_raised(store, domain))
    if _last(store, "stale", domain).get("alarm"):
        raised.add("stale")
    return {name: name in raised for name in ALARMS}


def stale_words(saved: SavedProbe, log: TrafficLog) -> str | None:
    """That a probe does not fit the weak model that answers; ``None`` when it does.

    That is, it fits none of those of the last requests: two routes of one domain may have two.
    Also ``None`` where no request says which model it was.
    """
    last = [key for key in log.weak_models if key][-_LAST:]
    if not last or model_key(saved.card.model) in last:
        return None
    return (
        f"probe {saved.card.name} was fitted on {saved.card.model}, but a weak model with other "
        "weights or another chat template answers, so its queries are declined; refit the probe, "
        "or serve the model it was fitted on"
    )


def _compared(
    store: Store,
    folder: Path,
    domain: str,
    saved: SavedProbe | None,
    log: TrafficLog,
    config: DriftConfig,
    rng: np.random.Generator,
) -> DriftReport:
    early = set[str]() if saved is None else {e.card.name for e in early_probes(folder, saved)}
    name = "" if saved is None else saved.card.name
    mine = log.take(np.array([probe == name or probe in early for probe in log.probes], bool))
    traffic = WatchedTraffic(
        log=mine,
        groups=_conversations(store, domain, mine),
        early=np.array([probe in early for probe in mine.probes], dtype=bool),
    )
    if saved is None:
        return watch(traffic, config=config, held_out=None, vectors=None, rng=rng)
    reference = reference_of(store, saved, traffic.newest(config.window), rng)
    return watch(
        traffic,
        config=config,
        held_out=saved.held_out,
        vectors=reference.vectors,
        scores=reference.scores,
        rng=rng,
        probe=name,
    )


def _conversations(store: Store, domain: str, log: TrafficLog) -> tuple[str, ...]:
    """What each request belongs to, else its own id.

    That is the group of its query, where that was kept: a session is told by the first message, and
    examples in a prompt are common to all that begin with them.
    """
    if not len(log):
        return ()
    records = store.requests(since=float(log.at[0]), limit=2 * len(log))
    sessions = {record.id: record.session for record in records}
    groups = {query.id: query.group for query in store.queries(domain)}
    return tuple(groups.get(one) or sessions.get(one) or one for one in log.ids)


def _note_alarms(store: Store, domain: str, report: DriftReport, *, by: str, at: float) -> None:
    """Note what began and what ended; the newest event lists all alarms that are then raised."""
    raised = _raised(store, domain)

    def note(details: Mapping[str, Any]) -> None:
        nonlocal raised
        name = {str(details["name"])}
        raised = raised | name if details["alarm"] else raised - name
        whole = {**details, "probe": report.probe, "raised": sorted(raised)}
        store.note("drift", domain, by=by, details=whole, at=at)
        _log(domain, details)

    if raised and (about := _last(store, "drift", domain).get("probe")) != report.probe:
        words = f"{report.probe or 'no probe'} serves now, and the alarm was about {about}"
        for name in sorted(raised):
            note({"name": name, "alarm": False, "words": words})
    for finding in report.findings:
        begins = finding.alarm and finding.name not in raised
        ends = finding.calm and finding.name in raised
        if begins or ends:
            note(_numbers(finding, report))


def _numbers(finding: Finding, report: DriftReport) -> Mapping[str, Any]:
    newest = {"newest": list(report.newest[:_NAMED])} if finding.name == "vectors" else {}
    return {
        "name": finding.name,
        "alarm": finding.alarm,
        "value": finding.value,
        "low": finding.low,
        "high": finding.high,
        "n": finding.n,
        "limit": finding.limit,
        "p_value": finding.p_value,
        "words": finding.words,
        **newest,
    }


def _note_stale(store: Store, domain: str, report: DriftReport, *, by: str, at: float) -> None:
    stale = report.stale is not None
    if stale == bool(_last(store, "stale", domain).get("alarm")):
        return
    details = {
        "name": "stale",
        "alarm": stale,
        "probe": report.probe,
        "words": report.stale or f"{report.probe or 'no probe'} serves, and nothing speaks against",
    }
    store.note("stale", domain, by=by, details=details, at=at)
    _log(domain, details)


def _raised(store: Store, domain: str) -> frozenset[str]:
    return frozenset(_last(store, "drift", domain).get("raised", ()))


def _last(store: Store, kind: str, domain: str) -> Mapping[str, Any]:
    """Details of the newest event; empty without one."""
    return next((event.details for event in store.events(kind=kind, subject=domain, limit=1)), {})


def _log(domain: str, details: Mapping[str, Any]) -> None:
    level, turn = (logging.WARNING, "began") if details["alarm"] else (logging.INFO, "ended")
    _logger.log(
        level, "alarm %r %s in domain %r: %s", details["name"], turn, domain, details["words"]
    )
