"""When something is to be done: pure, by made-up states of the store and a made-up clock."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretell.config import Config
from foretell.flywheel._duties import DOMAIN_DUTIES, STORE_DUTIES, duty_named
from foretell.flywheel._duty_state import DomainState, look_after, told_until
from foretell.flywheel._triggers import (
    LABELS_AFTER_DRIFT,
    LEAST_LABELS_OF_REFIT,
    refit_outlook,
    refit_reason,
)
from foretell.records import Event, Job
from toy_project import CONFIG

NOW = 1_000_000.0
HOUR_S = 3600.0
EVERY_S = 60.0


def config(refit: dict[str, Any] | None = None, **store: Any) -> Config:
    return Config(**CONFIG, flywheel={"every_s": EVERY_S, "refit": refit or {}}, store=store)


def job(kind: str, state: str = "done", *, ago_s: float = 10 * HOUR_S, **args: Any) -> Job:
    finished = NOW - ago_s if state in ("done", "failed") else None
    return Job(
        id=1,
        kind=kind,
        args=args,
        state=state,
        by="worker",
        created_at=NOW - ago_s,
        finished_at=finished,
    )


def event(kind: str, *, ago_s: float, **details: Any) -> Event:
    return Event(kind=kind, subject="toy", at=NOW - ago_s, by="worker", details=details)


def standing(**fields: Any) -> DomainState:
    """A domain whose probe was trained two hours ago, on 400 labels."""
    usual: dict[str, Any] = {
        "domain": "toy",
        "config": config(),
        "now": NOW,
        "has_probe_route": True,
        "serving": 1,
        "labels": 400,
        "refit": event("refit", ago_s=2 * HOUR_S),
        "jobs": {"refit": job("refit", ago_s=2 * HOUR_S, labels=400)},
    }
    return DomainState(**{**usual, **fields})


def due(name: str, state: DomainState) -> str | None:
    return duty_named(name).reason(state)


def refit_due(state: DomainState, **refit: Any) -> str | None:
    return refit_reason(replace(state, config=config(refit)))


def of_store(**fields: Any) -> DomainState:
    return DomainState(**{"domain": "", "config": config(), "now": NOW, **fields})


def test_a_new_probe_is_trained_after_so_many_hours_but_only_on_other_labels():
    daily = {"every_h": 24, "new_labels": None}
    yesterday = event("refit", ago_s=25 * HOUR_S)
    assert refit_due(standing(labels=401), **daily) is None
    assert refit_due(standing(refit=yesterday), **daily) is None
    reason = refit_due(standing(labels=401, refit=yesterday), **daily)
    assert reason == "the last one was 25 hours ago"


def test_a_new_probe_is_trained_after_so_many_labels():
    by_count = {"every_h": None, "new_labels": 100}
    assert refit_due(standing(labels=499), **by_count) is None
    assert refit_due(standing(labels=500), **by_count) == "100 new labels"


def test_an_alarm_of_drift_asks_for_a_new_probe_once_there_are_labels_to_learn_from():
    on_drift = {"every_h": None, "new_labels": None}
    alarm = event("drift", ago_s=HOUR_S, alarm=True)
    old = event("drift", ago_s=3 * HOUR_S, alarm=True)
    enough = 400 + LABELS_AFTER_DRIFT
    assert refit_due(standing(labels=enough, drift=old), **on_drift) is None
    assert refit_due(standing(labels=enough - 1, drift=alarm), **on_drift) is None
    assert "drift" in refit_due(standing(labels=enough, drift=alarm), **on_drift)
    assert refit_due(standing(labels=enough, drift=alarm), **on_drift, on_drift=False) is None


def test_while_a_probe_is_on_trial_only_drift_asks_for_another():
    eager = {"every_h": 1, "new_labels": 1}
    trial = standing(labels=900, shadow=2)
    assert refit_due(trial, **eager) is None
    alarm = event("drift", ago_s=HOUR_S, alarm=True)
    assert refit_due(replace(trial, drift=alarm), **eager) is not None


def test_the_first_probe_takes_some_labels():
    fresh = standing(refit=None, jobs={}, serving=None, labels=LEAST_LABELS_OF_REFIT)
    assert "there was none yet" in refit_due(fresh)
    assert refit_due(replace(fresh, labels=LEAST_LABELS_OF_REFIT - 1)) is None


@pytest.mark.parametrize("step", ["start", "keyword", "length", "embedding"])
def test_below_the_probe_the_ladder_alone_decides(step):
    eager = {"every_h": 1, "new_labels": 1}
    below = standing(labels=900, has_probe_route=False, steps={"auto": step})
    assert refit_due(below, **eager) is None
    assert refit_due(replace(below, steps={"auto": "probe"}), **eager) is not None


@given(
    labels=st.integers(0, 2000),
    more=st.integers(0, 2000),
    hours=st.floats(0.1, 100),
    new_labels=st.none() | st.integers(1, 1000),
    shadow=st.none() | st.just(2),
)
def test_more_labels_never_make_a_refit_less_due(labels, more, hours, new_labels, shadow):
    state = standing(labels=labels, refit=event("refit", ago_s=hours * HOUR_S), shadow=shadow)
    if refit_due(state, new_labels=new_labels) is not None:
        assert refit_due(replace(state, labels=labels + more), new_labels=new_labels) is not None


@given(
    labels=st.integers(0, 1000),
    hours=st.floats(0.1, 100),
    shadow=st.none() | st.just(2),
    step=st.sampled_from(["start", "probe"]),
)
def test_the_outlook_says_that_a_refit_is_due_exactly_when_it_is(labels, hours, shadow, step):
    state = standing(
        labels=labels,
        refit=event("refit", ago_s=hours * HOUR_S),
        shadow=shadow,
        has_probe_route=False,
        steps={"auto": step},
    )
    assert ("the next is due" in refit_outlook(state)) == (refit_reason(state) is not None)


def test_the_outlook_names_what_starts_the_next():
    words = refit_outlook(standing(labels=420))
    assert "the last 2.0 hours ago" in words
    assert "at 500 new labels (20 so far)" in words
    assert "24 hours after the last" in words
    few = standing(labels=10, refit=None, jobs={})
    assert refit_outlook(few) == "none yet; 40 more labels are needed for one"


@pytest.mark.parametrize("state", ["waiting", "running"])
def test_what_is_asked_for_already_is_not_asked_for_again(state):
    trial = standing(shadow=2)
    assert due("promotion", trial) is not None
    assert due("promotion", replace(trial, jobs={"promotion": job("promotion", state)})) is None


def test_a_duty_rests_between_two_of_its_jobs_and_longer_after_a_failure():
    pause_s = duty_named("promotion").pause * EVERY_S

    def after(state: str, ago_s: float) -> str | None:
        jobs = {"promotion": job("promotion", state, ago_s=ago_s, labels=1, version=2)}
        return due("promotion", standing(shadow=2, jobs=jobs))

    assert after("done", pause_s - 1) is None
    assert after("done", pause_s) is not None
    assert after("failed", pause_s) is None
    assert after("failed", 60 * EVERY_S) is not None


def test_a_probe_on_trial_is_judged_when_there_are_other_labels():
    judged = standing(shadow=2, jobs={"promotion": job("promotion", labels=400, version=2)})
    assert due("promotion", judged) is None
    assert due("promotion", replace(judged, labels=401)) is not None
    assert due("promotion", replace(judged, shadow=3)) is not None
    assert due("promotion", replace(judged, labels=401, shadow=None)) is None
    a_day_later = replace(judged, now=NOW + 24 * HOUR_S)
    assert due("promotion", a_day_later) is not None


def test_labelling_is_due_when_something_came_and_now_and_then_where_callers_label():
    assert due("label", standing()) is None
    assert due("label", standing(to_label=True)) is not None
    hour_ago = {"label": job("label", ago_s=60 * EVERY_S)}
    assert due("label", standing(jobs=hour_ago)) is None
    assert "taken back" in due("label", standing(jobs=hour_ago, labels_of_callers=5))
    recent = {"label": job("label", ago_s=59 * EVERY_S)}
    assert due("label", standing(jobs=recent, labels_of_callers=5)) is None


def test_drift_is_looked_for_after_a_fifth_of_a_window_where_a_probe_serves():
    step = look_after(config().flywheel.drift.window)
    assert step == 100
    assert due("drift", standing(unseen=step - 1)) is None
    assert due("drift", standing(unseen=step)) is not None
    assert due("drift", standing(unseen=step, serving=None)) is None


def test_the_ladder_is_looked_at_when_labels_or_the_weak_model_are_others():
    looked = {"ladder": job("ladder", labels=400, weak_model="a", serving=1)}
    on_ladder = standing(steps={"auto": "start"}, jobs=looked, weak_model="a")
    assert due("ladder", on_ladder) is None
    assert due("ladder", replace(on_ladder, labels=401)) == "401 labels, 400 at the last look"
    assert due("ladder", replace(on_ladder, weak_model="b")) == "another weak model answers"
    assert due("ladder", replace(on_ladder, labels=401, steps={})) is None
    assert due("ladder", replace(on_ladder, labels=0)) is None


def test_the_ladder_is_looked_at_when_a_first_probe_was_promoted_and_no_label_came():
    looked = {"ladder": job("ladder", labels=400, weak_model="a", serving=None)}
    waits = standing(steps={"auto": "start"}, jobs=looked, weak_model="a", serving=None)
    assert due("ladder", waits) is None
    assert due("ladder", replace(waits, serving=1)) == "version 1 serves by now"
    assert due("ladder", replace(waits, serving=1, steps={"auto": "probe"})) is None


def test_traffic_is_erased_and_gathered_only_where_settings_ask_for_it():
    assert due("retention", of_store()) is None
    assert due("retention", of_store(config=config(retention={"days": 30}))) is not None
    assert due("compaction", of_store()) is None
    assert due("compaction", of_store(unseen=1)) is not None
    keeps_none = config(traffic={"vectors": "none"})
    assert due("compaction", of_store(unseen=1, config=keeps_none)) is None


def test_a_webhook_is_told_what_it_was_not_told():
    assert due("webhook", of_store()) is None
    assert due("webhook", of_store(untold=2)) == "2 events"


def test_a_webhook_that_could_not_be_told_is_told_with_the_next():
    assert told_until(None, NOW) == NOW - HOUR_S
    assert told_until(job("webhook", since=1.0, until=2.0), NOW) == 2.0
    assert told_until(job("webhook", "failed", since=1.0, until=2.0), NOW) == 1.0


def test_every_duty_is_due_in_some_state_and_goes_by_a_name_of_its_own():
    duties = [*DOMAIN_DUTIES, *STORE_DUTIES]
    names = [duty.name for duty in duties]
    assert len(set(names)) == len(names)
    assert [duty_named(name) for name in names] == duties
