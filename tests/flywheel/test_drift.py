"""One look at traffic, all four numbers at once."""

from __future__ import annotations

import numpy as np
import pytest
from flywheel_log import log_of

from foretell.config import DriftConfig
from foretell.flywheel import ComparedVectors, ReferenceScores, WatchedTraffic, watch
from foretell.probes import HeldOut

WINDOW = 200
CONFIG = DriftConfig(window=WINDOW, confidence=0.95)


def training(rng, n=400):
    p = rng.random(n)
    return HeldOut(p_success=p, weak=(rng.random(n) < p).astype(float), strong=np.full(n, np.nan))


def traffic(rng, *, n=WINDOW, shift=0.0, off=0.0, early=0, **columns):
    """Chances uniform but for ``shift``, true but for ``off``; the first ``early`` stop early."""
    p = np.clip(rng.random(n) + shift, 0, 1)
    log = log_of(
        **{
            "p_success": p,
            "keep_at": np.full(n, 0.4),
            "weak": (rng.random(n) < np.clip(p + off, 0, 1)).astype(float),
            **columns,
        }
    )
    return WatchedTraffic(log=log, groups=log.ids, early=np.arange(n) < early)


def vectors(rng, shift=0.0, n=WINDOW):
    recent = rng.normal(size=(n, 5))
    recent[:20] += shift
    return ComparedVectors(
        reference=rng.normal(size=(300, 5)),
        recent=recent,
        reference_groups=tuple(f"trained {i}" for i in range(300)),
        recent_groups=tuple(f"request {i}" for i in range(n)),
        ids=tuple(f"request-{i}" for i in range(n)),
    )


def looked(rng, seen, *, compared=None, held_out=None, config=CONFIG, scores=None):
    return watch(
        seen,
        config=config,
        held_out=training(rng) if held_out is None else held_out,
        vectors=vectors(rng) if compared is None else compared,
        scores=scores,
        rng=rng,
        probe="geo@1",
    )


def finding(report, name):
    return next(finding for finding in report.findings if finding.name == name)


def test_traffic_like_the_training_raises_nothing():
    rng = np.random.default_rng(0)
    report = looked(rng, traffic(rng))
    assert report.alarms == ()
    assert report.newest == ()
    assert report.probe == "geo@1"
    assert [one.name for one in report.findings] == [
        "vectors",
        "calibration",
        "scores",
        "escalation",
    ]
    assert all(one.calm and one.n == WINDOW for one in report.findings)
    assert all(one.low <= one.value <= one.high for one in report.findings)


def test_each_number_sees_its_own_drift():
    rng = np.random.default_rng(1)
    assert looked(rng, traffic(rng), compared=vectors(rng, shift=9.0)).alarms == ("vectors",)
    assert looked(rng, traffic(rng, off=-0.25)).alarms == ("calibration",)
    # Higher chances that are true: other scores, and fewer strong calls.
    assert looked(rng, traffic(rng, shift=0.5)).alarms == ("scores", "escalation")


def test_what_looks_newest_is_named_with_the_alarm():
    rng = np.random.default_rng(2)
    report = looked(rng, traffic(rng), compared=vectors(rng, shift=9.0))
    assert len(report.newest) == 20
    assert {int(name.removeprefix("request-")) for name in report.newest} == set(range(20))


def test_a_change_beyond_chance_but_below_the_limit_is_no_alarm():
    rng = np.random.default_rng(3)
    seen = traffic(rng, n=3000, shift=0.08)
    config = DriftConfig(window=3000, confidence=0.95)
    report = looked(rng, seen, held_out=training(rng, 3000), config=config)
    scores = finding(report, "scores")
    assert scores.p_value < 1e-3
    assert 0 < scores.value < scores.limit
    assert not scores.alarm


def test_a_change_above_the_limit_that_chance_may_make_is_no_alarm():
    # A hundred turns of 50 conversations, and a limit that half of all looks pass.
    rng = np.random.default_rng(4)
    seen = traffic(rng, n=100)
    seen = WatchedTraffic(
        log=seen.log, groups=tuple(f"{i // 2}" for i in range(100)), early=seen.early
    )
    config = DriftConfig(window=100, confidence=0.99, psi=0.01, ece=0.01, escalation=0.01)
    report = looked(rng, seen, config=config)
    for name in ("scores", "escalation"):
        assert finding(report, name).value > finding(report, name).limit
        assert not finding(report, name).alarm


def test_only_what_a_rule_decided_is_looked_at():
    rng = np.random.default_rng(5)
    pinned = traffic(rng, shift=0.6, off=-0.5, actions=("pinned",) * WINDOW)
    report = looked(rng, pinned, compared=None)
    assert report.alarms == ()
    assert [finding(report, name).n for name in ("calibration", "scores", "escalation")] == [0] * 3


def test_calibration_looks_further_back_for_labels_and_never_without_their_chance():
    rng = np.random.default_rng(6)
    labelled = np.arange(3 * WINDOW) % 4 == 0
    whole = traffic(rng, n=3 * WINDOW, off=-0.3)
    some = np.where(labelled, whole.log.weak, np.nan)
    seen = traffic(rng, n=3 * WINDOW, p_success=whole.log.p_success, weak=some)
    assert finding(looked(rng, seen), "calibration").n == 150
    hidden = np.full(3 * WINDOW, np.nan)
    unknown = traffic(rng, n=3 * WINDOW, weak=some, weak_chance=hidden)
    assert finding(looked(rng, unknown), "calibration").value is None


def test_what_an_early_look_declined_counts_as_below_the_bar():
    # The early probe's chances are all 0.05: as scores of the probe they would be another world.
    rng = np.random.default_rng(7)
    p = np.concatenate([np.full(80, 0.05), rng.uniform(0.4, 1.0, 120)])
    report = looked(rng, traffic(rng, p_success=p, early=80))
    assert not finding(report, "scores").alarm
    assert not finding(report, "escalation").alarm
    assert finding(looked(rng, traffic(rng, p_success=p)), "scores").alarm


@pytest.mark.parametrize(("n", "alarm"), [(300, False), (60, True)])
def test_enough_of_the_probes_own_scores_come_before_those_of_cross_fitting(n, alarm):
    # A calibration with steps: the probe says 0.2, 0.5 or 0.8, cross-fitting anything between.
    rng = np.random.default_rng(9)
    steps = np.array([0.2, 0.5, 0.8])
    own = ReferenceScores(
        p_success=rng.choice(steps, n), weights=np.ones(n), groups=tuple(map(str, range(n)))
    )
    report = looked(rng, traffic(rng, p_success=rng.choice(steps, WINDOW)), scores=own)
    assert finding(report, "scores").alarm == alarm


@pytest.mark.parametrize("held_out", [False, True])
def test_what_cannot_be_judged_says_why_and_is_neither_alarm_nor_calm(held_out):
    rng = np.random.default_rng(8)
    report = watch(
        traffic(rng, n=30),
        config=CONFIG,
        held_out=training(rng) if held_out else None,
        vectors=vectors(rng, n=30) if held_out else None,
        rng=rng,
    )
    for one in report.findings:
        assert one.value is one.low is one.high is one.p_value is None
        assert not one.alarm
        assert not one.calm
        assert one.words
