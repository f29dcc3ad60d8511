"""When each duty of the flywheel is due: pure, by what the store says and the clock."""

from __future__ import annotations

from typing import Final

from foretell.flywheel._duty_state import DomainState, look_after, remembered

_HOUR_S: Final = 3600.0
_AGAIN_LOOKS: Final = 60
WAITING: Final = "waiting"
LATER: Final = "later"
"""In the result of a job that labelled: queries it did not come to, and those it is to try again
another time."""

DAY_LOOKS: Final = 24 * 60
"""Looks of the worker in a day, where it looks once a minute."""

LEAST_LABELS_OF_REFIT: Final = 50
LABELS_AFTER_DRIFT: Final = 50
"""New labels without which a new probe would hardly know what the alarm was about."""


def label_reason(state: DomainState) -> str | None:
    """When requests or feedback came, or the last job left some to do.

    Now and then also because feedback can be taken back, and because what a judge could not say may
    be said by now.
    """
    if state.to_label:
        return "requests or feedback came"
    last = state.jobs.get("label")
    if last is None:
        return None
    if waiting := last.result.get(WAITING):
        return f"{waiting} queries go on waiting"
    if state.now < last.created_at + _AGAIN_LOOKS * state.every_s:
        return None
    if later := last.result.get(LATER):
        return f"{later} queries were left for later"
    return "feedback may have been taken back" if state.labels_of_callers else None


def drift_reason(state: DomainState) -> str | None:
    """When a fifth of a window came since the last time, and a probe serves."""
    enough = state.unseen >= look_after(state.config.flywheel.drift.window)
    return f"{state.unseen} or more new requests" if enough and state.serving else None


def ladder_reason(state: DomainState) -> str | None:
    """When a route has a ladder, and something is other than before that moves it.

    That is the labels, the weak model, and below the step ``probe`` which probe serves: a first one
    that is promoted is what the step was waiting for, whether labels follow or not.
    """
    if not state.steps or not state.labels:
        return None
    last = state.jobs.get("ladder")
    before = remembered(last, "labels") or 0
    if state.labels != before:
        return f"{state.labels} labels, {before} at the last look"
    if last is not None and remembered(last, "weak_model") != state.weak_model:
        return "another weak model answers"
    below = any(step != "probe" for step in state.steps.values())
    promoted = state.serving is not None and remembered(last, "serving") != state.serving
    return f"version {state.serving} serves by now" if below and promoted else None


def promotion_reason(state: DomainState) -> str | None:
    """When a probe is on trial, and there are other labels than at the last look."""
    if state.shadow is None:
        return None
    last = state.jobs.get("promotion")
    seen = (remembered(last, "version"), remembered(last, "labels"))
    # A trial that brings no labels is to end some day.
    patient = last is not None and state.now < last.created_at + DAY_LOOKS * state.every_s
    if patient and seen == (state.shadow, state.labels):
        return None
    return f"version {state.shadow} is on trial, with {state.labels} labels"


def refit_reason(state: DomainState) -> str | None:
    """The first trigger of ``flywheel.refit`` that fires.

    None fires below the step ``probe`` of a ladder, nor without labels that the last probe has not
    seen, nor while a probe is on trial that was trained after the last alarm.
    """
    if not _has_probe(state):
        return None
    config, new = state.config.flywheel.refit, _new_labels(state)
    if state.labels < LEAST_LABELS_OF_REFIT or new <= 0:
        return None
    at = None if state.refit is None else state.refit.at
    drift = state.drift
    if config.on_drift and drift is not None and at is not None and drift.at > at:
        if new >= LABELS_AFTER_DRIFT:
            return f"an alarm of drift, and {new} new labels"
    elif state.shadow is not None:
        return None
    if config.new_labels is not None and new >= config.new_labels:
        return f"{new} new labels"
    if config.every_h is None:
        return None
    if at is None:
        return f"there was none yet, and there are {state.labels} labels"
    hours = (state.now - at) / _HOUR_S
    return f"the last one was {hours:.0f} hours ago" if hours >= config.every_h else None


def refit_outlook(state: DomainState) -> str:
    """When the last probe was trained, and what starts the next, in words."""
    config, last = state.config.flywheel.refit, "none yet"
    if state.refit is not None:
        last = f"the last {(state.now - state.refit.at) / _HOUR_S:.1f} hours ago"
    if not _has_probe(state):
        return f"{last}; below the step probe the ladder decides"
    if (reason := refit_reason(state)) is not None:
        return f"{last}; the next is due: {reason}"
    if state.shadow is not None:
        return f"{last}; no other one while version {state.shadow} is on trial"
    if (missing := LEAST_LABELS_OF_REFIT - state.labels) > 0:
        return f"{last}; {missing} more labels are needed for one"
    triggers: list[str] = []
    if config.new_labels is not None:
        triggers.append(f"at {config.new_labels} new labels ({_new_labels(state)} so far)")
    if config.every_h is not None:
        triggers.append(f"{config.every_h:g} hours after the last, with any new label")
    if config.on_drift:
        triggers.append(f"at an alarm of drift, with {LABELS_AFTER_DRIFT} new labels")
    return f"{last}; the next {' or '.join(triggers) or 'when it is asked for'}"


def retention_reason(state: DomainState) -> str | None:
    """Whenever something limits what is kept."""
    kept = state.config.store.retention
    limited = kept.days is not None or kept.max_gb is not None
    return "store.retention limits what is kept" if limited else None


def compaction_reason(state: DomainState) -> str | None:
    """Where vectors of traffic are kept, and some may have come."""
    keeps = state.config.store.traffic.vectors != "none"
    return "vectors of traffic come in small files" if keeps and state.unseen else None


def webhook_reason(state: DomainState) -> str | None:
    """When a webhook was not told of something."""
    return f"{state.untold} events" if state.untold else None


def _has_probe(state: DomainState) -> bool:
    return state.has_probe_route or "probe" in state.steps.values()


def _new_labels(state: DomainState) -> int:
    """Labels that came since the last probe was trained, or was to be."""
    return state.labels - (remembered(state.jobs.get("refit"), "labels") or 0)
