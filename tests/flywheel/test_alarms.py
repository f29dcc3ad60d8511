"""Alarms of a domain in a real store: noted when they begin and when they end."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from flywheel_world import (
    KEY,
    MODEL,
    POINTS,
    label,
    opened,
    outcomes,
    put,
    request,
    vectors,
)
from hypothesis import given
from hypothesis import strategies as st

from foretell.config import DriftConfig
from foretell.errors import ProbeFileError
from foretell.flywheel import ALARMS, WatchedTraffic, alarm_states, watch_domain
from foretell.flywheel._reference import _unselected, reference_of
from foretell.probes import subspace_of
from foretell.records import Answer, Observation, Query, Usage
from foretell.runtime import early_probes, promote, serving_probe, train_probe
from foretell.store import Store, model_key

NOW = datetime(2030, 1, 1, tzinfo=UTC)
START = NOW.timestamp()
WINDOW = 100
CONFIG = DriftConfig(window=WINDOW, confidence=0.99)
DOMAIN = "made-up"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    rng = np.random.default_rng(0)
    with opened(folder) as store:
        rows = vectors(300, rng)
        put(store, "trained", rows, outcomes(rows, rng))
        rows = vectors(200, rng)
        put(store, "tested", rows, outcomes(rows, rng), split="test")
        train_probe(store, DOMAIN, folder / "probes", now=NOW, nested=False, kinds=("linear",))
    return folder


@pytest.fixture
def place(trained: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained, tmp_path / "copy")
    return tmp_path / "copy"


def serve(
    store: Store,
    place: Path,
    name: str,
    rows: np.ndarray,
    *,
    at: float = START,
    reduced: bool = False,
    explored: float = 0.0,
    grouped: bool = False,
    **fields: object,
) -> None:
    """Requests with these activations, decided by the serving probe, their vectors kept.

    Of those below the bar a share ``explored`` goes to the weak model all the same.
    """
    saved = serving_probe(place / "probes", DOMAIN)
    seen = dict(zip(POINTS, (rows * np.float32(0.5), rows), strict=True))
    [point] = saved.card.read_points
    chances = saved.probe.calibration.p(
        seen[point].astype(float) @ saved.probe.weight + saved.probe.bias
    )
    subspace = subspace_of(saved, early_probes(place / "probes", saved)) if reduced else None
    kept = (
        seen
        if subspace is None
        else subspace.reduce({point: seen[point] for point in subspace.bases})
    )
    observations, records = [], []
    draws = np.random.default_rng(len(name)).random(len(rows))
    for i, p in enumerate(chances):
        by_weak = bool(p >= 0.5 or draws[i] < explored)
        records.append(
            request(
                f"{name}-{i}",
                at + i,
                **{
                    "probe": saved.card.name,
                    "p_success": float(p),
                    "keep_at": 0.5,
                    "serve": "weak" if by_weak else "strong",
                    "action": "keep" if by_weak else "escalate",
                    "weak_chance": 1.0 if p >= 0.5 else explored,
                    **fields,
                },
            )
        )
        observations.append(
            Observation(
                domain=DOMAIN,
                query=Query(
                    id=f"{name}-{i}",
                    messages=({"role": "user", "content": ""},),
                    group=f"asked-{i}" if grouped else None,
                ),
                role="weak" if by_weak else "strong",
                answer=Answer(
                    text="",
                    model="small",
                    finish_reason="stop",
                    usage=Usage(prompt_tokens=10, completion_tokens=3),
                ),
                model=MODEL if by_weak else None,
                activations={point: values[i] for point, values in kept.items()},
                subspace="" if subspace is None else subspace.id,
                origin="traffic",
            )
        )
    if subspace is not None:
        store.put_subspace(subspace.id, subspace.bases)
    store.append_requests(records)
    store.append(observations)


def moved(n: int, rng: np.random.Generator) -> np.ndarray:
    """Queries that the probe thinks easy, and that lie elsewhere."""
    rows = vectors(n, rng)
    rows[:, 0] += 3
    return rows


def look(store: Store, place: Path, minutes: int = 0, **options: object):
    now = NOW + timedelta(minutes=minutes)
    return watch_domain(store, place / "probes", DOMAIN, CONFIG, now, **options)


def told(store: Store, kind: str = "drift") -> list[tuple[str, bool]]:
    events = store.events(kind=kind, subject=DOMAIN)[::-1]
    return [(event.details["name"], event.details["alarm"]) for event in events]


@pytest.mark.parametrize("reduced", [False, True])
def test_the_same_kind_of_queries_is_no_alarm_whether_vectors_are_whole_or_not(place, reduced):
    with opened(place) as store:
        serve(store, place, "calm", vectors(120, np.random.default_rng(1)), reduced=reduced)
        report = look(store, place)
        by_name = {finding.name: finding for finding in report.findings}
        assert report.alarms == ()
        assert by_name["vectors"].n == WINDOW
        assert by_name["scores"].n == WINDOW
        assert by_name["calibration"].value is None  # nothing of it is labelled
        assert told(store) == []
        assert dict(alarm_states(store, DOMAIN)) == dict.fromkeys(ALARMS, False)


@pytest.mark.parametrize("reduced", [False, True])
def test_an_alarm_is_noted_once_when_it_begins_and_once_when_it_ends(place, reduced, caplog):
    rng = np.random.default_rng(2)
    with opened(place) as store, caplog.at_level(logging.INFO, "foretell.flywheel"):
        serve(store, place, "new", moved(110, rng), reduced=reduced)
        report = look(store, place, by="somebody")
        assert report.alarms == ("vectors", "scores", "escalation")
        assert alarm_states(store, DOMAIN) == {
            "calibration": False,
            "escalation": True,
            "scores": True,
            "stale": False,
            "vectors": True,
        }
        begun = told(store)
        assert begun == [("vectors", True), ("scores", True), ("escalation", True)]
        first = store.events(kind="drift", subject=DOMAIN)[-1]
        assert first.by == "somebody"
        assert first.at == START
        assert first.details["probe"] == "made-up@1"
        assert first.details["value"] == report.findings[0].value
        assert first.details["newest"] == list(report.newest[:5])

        look(store, place, minutes=1)
        assert told(store) == begun

        serve(store, place, "calm", vectors(120, rng), at=START + 500, reduced=reduced)
        look(store, place, minutes=2)
        assert told(store)[3:] == [("vectors", False), ("scores", False), ("escalation", False)]
        assert not any(alarm_states(store, DOMAIN).values())
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 3 + ["INFO"] * 3


def test_alarms_about_a_probe_end_when_another_one_serves(place):
    rng = np.random.default_rng(3)
    with opened(place) as store:
        serve(store, place, "new", moved(110, rng))
        look(store, place)
        train_probe(store, DOMAIN, place / "probes", now=NOW, nested=False, kinds=("linear",))
        look(store, place, minutes=1)
        assert [alarm for _, alarm in told(store)] == [True] * 3 + [False] * 3
        assert "made-up@2" in store.events(kind="drift")[0].details["words"]
        promote(place / "probes", DOMAIN, 1)
        look(store, place, minutes=2)
        assert [alarm for _, alarm in told(store)] == [True] * 3 + [False] * 3 + [True] * 3


def test_one_conversation_is_no_evidence(place):
    rows = moved(110, np.random.default_rng(4))
    with opened(place) as store:
        serve(store, place, "talk", rows, session="one")
        report = look(store, place)
        assert report.alarms == ()
        assert all(finding.value is None for finding in report.findings)


def test_requests_that_begin_with_the_same_examples_are_no_conversation(place):
    """Their session is one, by the first message; what they ask is not."""
    rows = moved(110, np.random.default_rng(4))
    with opened(place) as store:
        serve(store, place, "few", rows, session="one", grouped=True)
        assert "vectors" in look(store, place).alarms


def test_one_prompt_asked_again_and_again_is_no_evidence_of_other_vectors(place):
    rows = np.repeat(moved(1, np.random.default_rng(5)), 110, axis=0)
    with opened(place) as store:
        serve(store, place, "same", rows)
        assert look(store, place).findings[0].value is None


def test_requests_of_another_probe_are_not_looked_at(place):
    with opened(place) as store:
        serve(store, place, "old", moved(110, np.random.default_rng(6)), probe="made-up@7")
        assert [finding.n for finding in look(store, place).findings] == [0, 0, 0, 0]


def test_what_an_early_probe_declined_is_the_probes_own_traffic(place):
    with opened(place) as store:
        saved = serving_probe(place / "probes", DOMAIN)
        early = early_probes(place / "probes", saved)
        rows = vectors(110, np.random.default_rng(7))
        serve(store, place, "calm", rows, probe=early[0].card.name if early else saved.card.name)
        assert look(store, place).findings[3].n == WINDOW


def test_labels_of_recent_requests_judge_the_chances(place):
    rng = np.random.default_rng(8)
    with opened(place) as store:
        rows = vectors(300, rng)
        serve(store, place, "wrong", rows)
        kept = [r.id for r in store.requests(limit=300) if r.serve == "weak"]
        label(store, kept, np.zeros(len(kept)))
        report = look(store, place)
        assert "calibration" in report.alarms
        assert alarm_states(store, DOMAIN)["calibration"]


def test_a_probe_that_does_not_fit_the_weak_model_is_stale_until_one_does(place):
    rng = np.random.default_rng(9)
    other = model_key(replace(MODEL, weights_sha256="c" * 64))
    with opened(place) as store:
        serve(store, place, "calm", vectors(60, rng))
        assert look(store, place).stale is None
        declined = {"action": "declined", "cause": "probe_mismatch", "probe": None}
        serve(
            store, place, "swapped", vectors(30, rng), at=START + 90, weak_model=other, **declined
        )
        report = look(store, place, minutes=2)
        look(store, place, minutes=3)
        assert report.findings == ()
        assert "made-up@1" in report.stale
        assert told(store, "stale") == [("stale", True)]
        assert alarm_states(store, DOMAIN)["stale"]
        serve(store, place, "back", vectors(30, rng), at=START + 200, weak_model=KEY)
        look(store, place, minutes=4)
        assert told(store, "stale") == [("stale", True), ("stale", False)]
        assert not alarm_states(store, DOMAIN)["stale"]


def test_two_routes_with_two_weak_models_make_no_probe_stale(place):
    rng = np.random.default_rng(10)
    with opened(place) as store:
        serve(store, place, "mine", vectors(60, rng))
        serve(store, place, "other", vectors(10, rng), at=START + 90, weak_model="another")
        assert look(store, place).stale is None


def test_without_a_probe_or_traffic_nothing_can_be_judged(place):
    with opened(place) as store:
        report = look(store, place)
        assert [finding.n for finding in report.findings] == [0, 0, 0, 0]
        assert report.probe == "made-up@1"
        shutil.rmtree(place / "probes")
        report = look(store, place, metric="right")
        assert report.probe == ""
        assert report.alarms == ()


def test_a_probe_that_cannot_be_loaded_is_said(place):
    (place / "probes" / DOMAIN / "1" / "card.json").write_text("{")
    with opened(place) as store, pytest.raises(ProbeFileError):
        look(store, place)


def test_a_probe_trained_on_traffic_is_compared_with_it_as_if_all_of_it_had_been_seen(place):
    # Above the bar all are seen and below it one in four: by itself that would look like drift,
    # since vectors are kept of all that is asked.
    rng = np.random.default_rng(11)
    with opened(place) as store:
        rows = vectors(1600, rng)
        serve(store, place, "old", rows, at=START - 5000, explored=0.25)
        seen = {r.id: r for r in store.requests(limit=2000) if r.serve == "weak"}
        labels = outcomes(rows, rng)
        of_seen = [labels[int(query.removeprefix("old-"))] for query in seen]
        label(store, list(seen), np.array(of_seen))
        train_probe(store, DOMAIN, place / "probes", now=NOW, nested=False, kinds=("linear",))
        serve(store, place, "recent", vectors(110, rng), at=START)

        saved = serving_probe(place / "probes", DOMAIN)
        log = store.traffic(DOMAIN, since=START, limit=WINDOW)
        window = WatchedTraffic(log=log, groups=log.ids, early=np.zeros(len(log), bool))
        compared = reference_of(store, saved, window, np.random.default_rng(0)).vectors
        assert 100 <= len(compared.reference) < len(seen) / 6  # three in ten are of the test side
        # Half of what is asked lies below the bar; of what was seen, one in five does.
        below = [seen[query].p_success < 0.5 for query in compared.reference_groups]
        assert 0.4 < np.mean(below) < 0.6
        assert not look(store, place).findings[0].alarm


@given(st.lists(st.sampled_from([0.02, 0.1, 0.5, 0.98]), min_size=1, max_size=5))
def test_what_is_taken_of_the_seen_is_taken_with_one_chance_from_all(chances):
    # Seen with chance c and then taken with chance t: c t is the same for every kind of query.
    many = np.repeat(chances, 20_000)
    taken = _unselected(many, np.random.default_rng(0)).reshape(len(chances), -1).mean(axis=1)
    np.testing.assert_allclose(taken * chances, min(chances), atol=0.012)


def test_what_a_caller_chose_is_not_taken():
    taken = _unselected(np.array([1.0, np.nan, 0.0, 1.0]), np.random.default_rng(0))
    assert taken.tolist() == [True, False, False, True]


def test_only_queries_on_which_nothing_was_fitted_are_compared_with(place):
    # A subspace lies close to the queries it was fitted on; in it, all others look strange.
    with opened(place) as store:
        serve(store, place, "calm", vectors(110, np.random.default_rng(12)), reduced=True)
        log = store.traffic(DOMAIN, limit=WINDOW)
        window = WatchedTraffic(log=log, groups=log.ids, early=np.zeros(len(log), bool))
        saved = serving_probe(place / "probes", DOMAIN)
        found = reference_of(store, saved, window, np.random.default_rng(0))
        assert {name.split("-")[0] for name in found.vectors.reference_groups} == {"tested"}
        assert {name.split("-")[0] for name in found.scores.groups} == {"tested"}
        assert len(found.vectors.reference) == len(found.scores.p_success) == 200
