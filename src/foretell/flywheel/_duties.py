"""What the flywheel does for a domain, duty by duty: when it is due, and how it is done."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

from foretell.config import Config, secret
from foretell.errors import (
    CancelledError,
    ConfigError,
    EngineBusyError,
    InputError,
    RoutingError,
    StoreError,
    UpstreamError,
)
from foretell.flywheel._alarms import watch_domain
from foretell.flywheel._duty import Duty, Task
from foretell.flywheel._duty_state import events_between, routes_of, weak_model_of
from foretell.flywheel._ladder import climb
from foretell.flywheel._promotion import Promotion, PromotionState, consider_promotion
from foretell.flywheel._queue import Heartbeat, JobQueue, Progress, domain_of
from foretell.flywheel._refit import refit
from foretell.flywheel._traffic_labels import label_traffic, metric_of
from foretell.flywheel._triggers import (
    DAY_LOOKS,
    compaction_reason,
    drift_reason,
    label_reason,
    ladder_reason,
    promotion_reason,
    refit_reason,
    retention_reason,
    webhook_reason,
)
from foretell.flywheel._webhook import Webhook
from foretell.flywheel._workshop import forget_verdicts
from foretell.records import Job
from foretell.runtime import key_by_config

_logger = logging.getLogger(__name__)

_STATES: Final[Mapping[PromotionState, str]] = {
    "promoted": "promoted",
    "refused": "refused",
    "shadow": "on trial",
    "waiting": "still on trial",
    "unchanged": "left as it is",
}


def _drift(task: Task, progress: Progress) -> Mapping[str, Any]:
    """Watch whether traffic is still what the probe was trained on; notes alarms."""
    progress(None, "comparing traffic with what the probe was trained on")
    report = watch_domain(
        task.store,
        task.folder,
        task.domain,
        task.config.flywheel.drift,
        task.now,
        by=task.by,
        metric=metric_of(task.config, task.domain),
    )
    said = [report.stale] if report.stale else [one.words for one in report.findings]
    return {
        "probe": report.probe,
        "alarms": list(report.alarms),
        "stale": report.stale,
        "findings": [asdict(finding) for finding in report.findings],
        "newest": list(report.newest),
        "words": "; ".join(said) or "there is nothing to compare",
    }


def _ladder(task: Task, progress: Progress) -> Mapping[str, Any]:
    """Move the routes of ``router: auto`` up, or down, as labels say."""
    labels = _labels(task)
    routes = [
        name
        for name, route in routes_of(task.config, task.domain).items()
        if route.router == "auto"
    ]
    if not routes:
        raise InputError(
            f"no route of domain {task.domain!r} has router: auto, so none has a ladder"
        )
    reports: dict[str, Any] = {}
    for position, route in enumerate(routes):
        begun = position / len(routes)
        report = climb(
            task.store,
            task.config,
            route,
            task.domain,
            now=task.now,
            by=task.by,
            weak_model=_weak_model(task),
            metric=metric_of(task.config, task.domain),
            progress=lambda words, begun=begun: progress(begun, words),
        )
        reports[route] = {
            "step": report.step,
            "came_from": report.came_from,
            "next_step": report.next_step,
            "labels": report.labels,
            "labels_needed": report.labels_needed,
            "skipped": dict(report.skipped),
            "words": report.words,
        }
    return {
        "routes": reports,
        "labels": labels,
        "words": "; ".join(f"{route}: {report['words']}" for route, report in reports.items()),
    }


def _refit(task: Task, progress: Progress) -> Mapping[str, Any]:
    """Train a probe, which is then tried beside the serving one, or promoted, or refused."""
    labels = _labels(task)
    config, weak_model = task.config.flywheel, _weak_model(task)
    found = refit(
        task.store,
        task.domain,
        task.folder,
        config=config,
        now=task.now,
        by=task.by,
        weak_model=weak_model,
        strong_model=_strong_model(task),
        metric=metric_of(task.config, task.domain),
        progress=lambda done, total: progress(done / total, "searching read points"),
    )
    progress(None, f"judging {found.probe}")
    decided = consider_promotion(
        task.store,
        task.domain,
        task.folder,
        config=config,
        now=task.now,
        by=task.by,
        version=found.version,
        weak_model=weak_model,
    )
    return {
        **_decision(decided),
        "labels": labels,
        "words": f"{found.words}; {_in_words(decided)}",
    }


def _promotion(task: Task, progress: Progress) -> Mapping[str, Any]:
    """Judge the probe on trial by what it foretold and is labelled by now."""
    labels = _labels(task)
    progress(None, "judging the probe on trial")
    decided = consider_promotion(
        task.store,
        task.domain,
        task.folder,
        config=task.config.flywheel,
        now=task.now,
        by=task.by,
        weak_model=_weak_model(task),
    )
    return {**_decision(decided), "labels": labels, "words": _in_words(decided)}


def _retention(task: Task, progress: Progress) -> Mapping[str, Any]:
    """Erase traffic that is older, or more, than is to be kept."""
    progress(None, "erasing what is not to be kept")
    kept = task.config.store.retention
    max_bytes = None if kept.max_gb is None else int(kept.max_gb * 1e9)
    erased = task.store.retain(days=kept.days, max_bytes=max_bytes)
    if erased.queries:
        forget_verdicts(task.config.store.vectors)  # a judge's reply may quote what was erased
    return {**asdict(erased), "words": f"{erased.requests} requests erased"}


def _compaction(task: Task, progress: Progress) -> Mapping[str, Any]:
    """Gather vectors from many small files into few."""
    progress(None, "gathering small files of vectors")
    gathered = task.store.compact()
    return {
        **asdict(gathered),
        "words": f"{gathered.merged} files of vectors are {gathered.into} now",
    }


def _webhook(task: Task, progress: Progress) -> Mapping[str, Any]:
    """Tell of alarms, promotions, refusals and rollbacks."""
    settings = task.config.flywheel
    if settings.webhook is None:
        raise ConfigError("flywheel.webhook is not set, so there is nobody to tell")
    variable = settings.webhook_token_env
    webhook = Webhook(settings.webhook, None if variable is None else secret(variable))
    events = events_between(task.store, task.args["since"], task.args["until"])
    for position, event in enumerate(events):
        progress(position / len(events), f"telling of {event.kind} of {event.subject}")
        if not webhook.tell(event):
            raise UpstreamError(f"the webhook took {position} of {len(events)} events; see the log")
    return {"words": f"told of {len(events)} events"}


DOMAIN_DUTIES: Final = (
    Duty(name="label", pause=5, due=label_reason, run=label_traffic),
    Duty(name="drift", pause=10, due=drift_reason, run=_drift),
    Duty(name="ladder", pause=10, due=ladder_reason, run=_ladder),
    Duty(name="promotion", pause=10, due=promotion_reason, run=_promotion),
    Duty(name="refit", pause=10, due=refit_reason, run=_refit),
)
STORE_DUTIES: Final = (
    Duty(name="retention", pause=60, due=retention_reason, run=_retention),
    Duty(name="compaction", pause=DAY_LOOKS, due=compaction_reason, run=_compaction),
    Duty(name="webhook", pause=0, due=webhook_reason, run=_webhook),
)


def duty_named(name: str) -> Duty:
    """The duty that does jobs of a kind; raises ``InputError`` when none does."""
    duties = {duty.name: duty for duty in (*DOMAIN_DUTIES, *STORE_DUTIES)}
    if name in duties:
        return duties[name]
    raise InputError(f"no duty is called {name!r}; there are {', '.join(sorted(duties))}")


def work_on(
    job: Job,
    config: Config,
    queue: JobQueue,
    *,
    on_progress: Progress | None = None,
) -> None:
    """Do a job that the queue's worker has claimed, and settle it.

    What cannot be done as things are (too few labels, a setting) fails for good, with the reason;
    the rest is begun again after a while. Raises only when the store fails.
    """
    heartbeat = Heartbeat(queue, job, on_progress)
    domain = domain_of(job)
    try:
        with heartbeat:
            task = Task(
                store=queue.store,
                config=config,
                domain=domain,
                by=job.by,
                clock=queue.clock,
                args=job.args,
            )
            result = duty_named(job.kind).run(task, heartbeat.tell)
    except CancelledError as error:
        _logger.warning("%s", error)
    except (StoreError, UpstreamError, EngineBusyError) as error:
        queue.failed(job, str(error))
    except RoutingError as error:
        queue.failed(job, str(error), lasting=True)
    except Exception as error:
        _logger.exception("%s of domain %r failed", job.kind, domain)
        queue.failed(job, f"{type(error).__name__}; the log says where")
    except BaseException:
        queue.put_back(job, "was interrupted")
        raise
    else:
        queue.done(job, result)


def _strong_model(task: Task) -> str | None:
    """Key of the strong model whose answers count; ``None`` where there is no choice to make."""
    if len(task.store.answered_by(task.domain, "strong")) < 2:
        return None
    first = (route.strong[0] for route in routes_of(task.config, task.domain).values())
    keys = (key_by_config(task.config.models[name]) for name in first)
    return next((key for key in keys if key is not None), None)


def _weak_model(task: Task) -> str | None:
    """Key of the weak model that is asked, as the job says, or the traffic."""
    return task.args.get("weak_model") or weak_model_of(task.store, task.domain) or None


def _labels(task: Task) -> int:
    return sum(task.store.label_counts(task.domain).values())


def _decision(decided: Promotion | None) -> dict[str, Any]:
    if decided is None:
        return {"version": None, "state": None}
    return {"version": decided.version, "state": decided.state, "before": decided.before}


def _in_words(decided: Promotion | None) -> str:
    if decided is None:
        return "no probe is on trial any more"
    return f"version {decided.version} is {_STATES[decided.state]}: {decided.reason}"
