from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from flywheel_world import (
    KEY,
    MODEL,
    POINTS,
    chance,
    label,
    opened,
    outcomes,
    put,
    request,
    vectors,
)

from foretell.config import FlywheelConfig, RefitConfig
from foretell.errors import InputError, TrainingDataError
from foretell.flywheel import (
    _paired,
    consider_promotion,
    freeze_holdout,
    in_shadow,
    load_holdout,
    promote_probe,
    refit,
    roll_back_probe,
)
from foretell.flywheel._refit import judge
from foretell.probes import Provenance, load_probe, subspace_of
from foretell.runtime import (
    load_pointers,
    load_version,
    probe_versions,
    promote,
    serving_version,
    shadow_version,
    train_probe,
)
from foretell.store import Store, model_key

NOW = datetime(2030, 1, 1, tzinfo=UTC)
AT_ONCE = FlywheelConfig(refit=RefitConfig(shadow_labels=0))
TRIED = FlywheelConfig(refit=RefitConfig(shadow_labels=100))


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store whose domain has a holdout, and a probe that was trained on sixty queries."""
    folder = tmp_path_factory.mktemp("begun")
    rng = np.random.default_rng(0)
    with opened(folder) as store:
        few, held = vectors(60, rng), vectors(300, rng)
        put(store, "first", few, outcomes(few, rng))
        put(store, "held", held, outcomes(held, rng), split="test")
        train_probe(store, "made-up", folder / "probes", now=NOW, nested=False, kinds=("linear",))
    return folder


@pytest.fixture(scope="module")
def bettered(begun: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a candidate that was trained on five hundred queries more."""
    folder = tmp_path_factory.mktemp("bettered") / "copy"
    shutil.copytree(begun, folder)
    rng = np.random.default_rng(1)
    with opened(folder) as store:
        rows = vectors(500, rng)
        put(store, "more", rows, outcomes(rows, rng))
        refitted(store, folder)
    return folder


@pytest.fixture
def early(begun: Path, tmp_path: Path) -> Iterator[tuple[Store, Path]]:
    yield from copied(begun, tmp_path)


@pytest.fixture
def late(bettered: Path, tmp_path: Path) -> Iterator[tuple[Store, Path]]:
    yield from copied(bettered, tmp_path)


def copied(folder: Path, tmp_path: Path) -> Iterator[tuple[Store, Path]]:
    shutil.copytree(folder, tmp_path / "copy")
    with opened(tmp_path / "copy") as store:
        yield store, tmp_path / "copy"


def refitted(store: Store, folder: Path, config: FlywheelConfig = AT_ONCE, **options: object):
    return refit(
        store,
        "made-up",
        folder / "probes",
        config=config,
        now=NOW,
        by="test",
        kinds=("linear",),
        **options,
    )


def considered(store: Store, folder: Path, config: FlywheelConfig = AT_ONCE, **options: object):
    options = {"now": NOW, "by": "test", **options}
    return consider_promotion(store, "made-up", folder / "probes", config=config, **options)


def kinds(store: Store) -> list[str]:
    return [event.kind for event in store.events()]


def test_a_better_candidate_is_promoted_and_everything_is_noted(late):
    store, folder = late
    (noted,) = store.events(kind="refit")
    assert noted.details["labels"] == {"code": 560}
    assert noted.details["comparison"]["gain"]["low"] > 0
    found = considered(store, folder, version=2)
    assert found is not None
    assert found.promoted
    assert found.holdout is not None
    assert found.holdout.gain.low is not None
    assert found.holdout.gain.low > 0
    assert serving_version(folder / "probes", "made-up") == 2
    (event,) = store.events(kind="promoted")
    card = load_probe(folder / "probes" / "made-up" / "2").card
    assert (event.subject, event.by, event.at) == ("made-up", "test", NOW.timestamp())
    assert event.details["training_data_sha256"] == card.training_data_sha256
    assert event.details["evidence"]["holdout"]["gain"]["n"] == 300
    assert card.provenance == Provenance(by="test", labels={"code": 560}, seen={"collected": 560})


def test_a_candidate_does_not_serve_before_it_is_promoted(late):
    _, folder = late
    assert probe_versions(folder / "probes", "made-up") == [1, 2]
    assert serving_version(folder / "probes", "made-up") == 1


def test_what_served_before_any_refit_is_not_said_to_be_promoted(begun, tmp_path):
    with opened(Path(shutil.copytree(begun, tmp_path / "copy"))) as store:
        found = refitted(store, tmp_path / "copy")
        assert (found.version, found.reused) == (1, True)
        decided = considered(store, tmp_path / "copy", version=1)
        assert decided is not None
        assert decided.state == "unchanged"


def test_a_decision_is_made_once(late):
    store, folder = late
    considered(store, folder, version=2)
    roll_back_probe(store, "made-up", folder / "probes", by="ann", now=NOW, why="complaints")
    again = considered(store, folder, version=2)
    assert again is not None
    assert again.state == "unchanged"
    assert serving_version(folder / "probes", "made-up") == 1
    assert kinds(store).count("promoted") == 1
    (event,) = store.events(kind="rolled_back")
    assert (event.by, event.details) == ("ann", {"version": 1, "before": 2, "why": "complaints"})


def test_what_serves_already_is_not_judged_again(late):
    store, folder = late
    promote_probe(store, "made-up", folder / "probes", 2, by="ann", now=NOW)
    found = considered(store, folder, version=2)
    assert found is not None
    assert (found.state, found.reason) == ("unchanged", "it serves already")


def test_an_equal_candidate_is_not_promoted(early):
    """Five queries more make another probe, and no better one."""
    store, folder = early
    rng = np.random.default_rng(2)
    rows = vectors(5, rng)
    put(store, "more", rows, outcomes(rows, rng))
    found = refitted(store, folder)
    assert not found.reused
    decided = considered(store, folder, version=found.version)
    assert decided is not None
    assert decided.state == "refused"
    assert decided.reason.startswith("no gain is shown")
    assert serving_version(folder / "probes", "made-up") == 1
    assert [event.details["version"] for event in store.events(kind="refused")] == [2]


def test_a_worse_candidate_is_not_promoted_nor_even_tried(early):
    store, folder = early
    rng = np.random.default_rng(3)
    rows = vectors(400, rng)
    put(store, "wrong", rows, 1 - outcomes(rows, rng))
    found = refitted(store, folder, TRIED)
    assert found.comparison.gain.loss_shown
    decided = considered(store, folder, TRIED, version=found.version)
    assert decided is not None
    assert decided.state == "refused"
    assert decided.reason.startswith("it is worse")
    assert shadow_version(folder / "probes", "made-up") is None


def test_a_candidate_whose_chances_are_untrue_is_not_promoted_though_it_ranks_better(
    late, monkeypatch
):
    store, folder = late
    shifted = FlywheelConfig.model_validate({"refit": {"shadow_labels": 0}, "drift": {"ece": 0.05}})
    honest = _paired.chances

    def too_sure(saved, rows):
        p = honest(saved, rows)
        return p if saved.card.version == 1 else np.where(p > 0.5, np.maximum(p, 0.97), p * 0.9)

    monkeypatch.setattr(_paired, "chances", too_sure)
    decided = considered(store, folder, shifted, version=2)
    assert decided is not None
    assert decided.state == "refused"
    assert decided.holdout is not None
    assert not decided.holdout.calibrated


def test_each_candidate_by_the_same_holdout_must_show_more(early):
    store, folder = early
    rng = np.random.default_rng(4)
    levels = []
    for name in "abc":
        rows = vectors(4, rng)
        put(store, name, rows, outcomes(rows, rng))
        found = refitted(store, folder)
        levels.append((found.look, found.comparison.gain.level))
    # 0.05 / (1 × 2), 0.05 / (2 × 3), 0.05 / (3 × 4): 0.05 in all, however many there will be.
    assert [look for look, _ in levels] == [1, 2, 3]
    assert [level for _, level in levels] == pytest.approx([0.05 / 2, 0.05 / 6, 0.05 / 12])
    # Twice the trusted labels make a new holdout, which begins anew.
    held = vectors(300, rng)
    put(store, "later", held, outcomes(held, rng), split="test")
    found = refitted(store, folder)
    assert (found.look, found.reused) == (1, True)
    assert len(store.events(kind="holdout")) == 2


def test_the_same_data_makes_no_second_candidate(late):
    store, folder = late
    again = refitted(store, folder)
    assert (again.version, again.reused, again.look) == (2, True, 1)
    assert len(store.events(kind="refit")) == 1
    assert probe_versions(folder / "probes", "made-up") == [1, 2]


def test_a_refit_that_died_after_saving_is_taken_up_where_it_stopped(early, monkeypatch):
    store, folder = early
    rng = np.random.default_rng(5)
    rows = vectors(300, rng)
    put(store, "more", rows, outcomes(rows, rng))

    def die(*_args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("foretell.flywheel._refit.judge", die)
    with pytest.raises(KeyboardInterrupt):
        refitted(store, folder)
    assert serving_version(folder / "probes", "made-up") == 1
    assert kinds(store) == ["holdout"]
    with pytest.raises(InputError, match="not judged by any holdout"):
        considered(store, folder, version=2)
    monkeypatch.undo()
    found = refitted(store, folder)
    assert (found.version, found.reused, found.look) == (2, True, 1)
    decided = considered(store, folder, version=2)
    assert decided is not None
    assert decided.promoted


def test_a_promotion_that_died_before_it_was_noted_is_noted_once_later(late):
    """The pointer moves first: a note of what did not happen would be worse than none."""
    store, folder = late
    promote(folder / "probes", "made-up", 2)
    states = [considered(store, folder, version=2) for _ in range(2)]
    assert [found.state for found in states if found is not None] == ["promoted", "unchanged"]
    assert kinds(store).count("promoted") == 1


def test_without_trusted_labels_nothing_is_trained(early):
    store, folder = early
    human = AT_ONCE.model_copy(update={"trusted": ("human",)})
    with pytest.raises(
        TrainingDataError, match=r"\(human, metric 'right'\).* there are 0 in 0 groups"
    ):
        refitted(store, folder, human)
    assert probe_versions(folder / "probes", "made-up") == [1]


def test_a_holdout_keeps_the_labels_of_the_day_it_was_frozen(early):
    store, _ = early
    holdout = freeze_holdout(store, "made-up", metric="right", trusted=["code"], by="test", now=NOW)
    before = holdout.rows(store, ())
    label(store, before.ids, 1 - before.weak)
    again = load_holdout(store, "made-up", metric="right")
    assert again == holdout
    np.testing.assert_array_equal(again.rows(store, ()).weak, before.weak)
    assert load_holdout(store, "made-up", metric="right", weak_model="another") is None
    assert load_holdout(store, "made-up", metric="wrong") is None


def test_a_holdout_is_frozen_anew_when_other_sources_are_trusted(late):
    store, folder = late
    ids = [f"held-{i}" for i in range(100)]
    rng = np.random.default_rng(6)
    label(store, ids, rng.integers(0, 2, 100).astype(float), source="human", author="ann")
    found = refitted(store, folder, AT_ONCE.model_copy(update={"trusted": ("human",)}))
    assert found.comparison.gain.n == 100
    assert len(store.events(kind="holdout")) == 2


def test_a_probe_of_another_weak_model_is_no_rival(early):
    """The base rate is: whoever foretells it of every query ranks nothing."""
    store, folder = early
    rng = np.random.default_rng(7)
    swapped = replace(MODEL, weights_sha256="c" * 64)
    for split, n in (("train", 200), ("test", 120)):
        rows = vectors(n, rng)
        put(store, f"new-{split}", rows, outcomes(rows, rng), split=split, model=swapped)
    found = refitted(store, folder, weak_model=model_key(swapped))
    assert found.rival is None
    assert found.comparison.rivals_auroc == 0.5
    decided = considered(store, folder, version=2, weak_model=model_key(swapped))
    assert decided is not None
    assert decided.promoted


def test_a_candidate_for_a_model_that_answers_no_more_is_refused(late):
    store, folder = late
    decided = considered(store, folder, version=2, weak_model="another")
    assert decided is not None
    assert decided.state == "refused"
    assert "another weak model" in decided.reason


def trial(store: Store, *, n: int, better: bool, source: str = "code", **fields):
    """Requests that were foretold by both while ``n`` of them were labelled."""
    rng = np.random.default_rng(8)
    rows = vectors(n, rng)
    at = NOW.timestamp() + 60
    ids = [f"live-{i}" for i in range(n)]
    true, flat = chance(rows), np.full(n, 0.5)
    by_candidate, by_serving = (true, flat) if better else (flat, true)
    store.append_requests(
        [
            request(
                ids[i],
                at + i,
                p_success=float(by_serving[i]),
                probe="made-up@1",
                shadow_probe="made-up@2",
                shadow_p_success=float(by_candidate[i]),
                **fields,
            )
            for i in range(n)
        ]
    )
    put(store, "live", rows, outcomes(rows, rng), source=source, origin="traffic")


def test_a_candidate_is_tried_before_it_serves(late):
    store, folder = late
    probes = folder / "probes"
    begins = considered(store, folder, TRIED, version=2)
    assert begins is not None
    assert begins.state == "shadow"
    assert (serving_version(probes, "made-up"), shadow_version(probes, "made-up")) == (1, 2)
    goes_on = considered(store, folder, TRIED)
    assert goes_on is not None
    assert (goes_on.state, goes_on.labels, goes_on.needed) == ("waiting", 0, 100)
    trial(store, n=120, better=True)
    ends = considered(store, folder, TRIED)
    assert ends is not None
    assert (ends.state, ends.labels, ends.before) == ("promoted", 120, 1)
    assert ends.live is not None
    assert ends.together is not None
    assert ends.together.gain.n == 300 + 120
    assert load_pointers(probes, "made-up").serving == 2
    assert shadow_version(probes, "made-up") is None
    assert kinds(store)[:2] == ["promoted", "shadow"]
    assert considered(store, folder, TRIED) is None


def test_a_candidate_that_is_worse_on_live_requests_is_refused(late):
    store, folder = late
    considered(store, folder, TRIED, version=2)
    trial(store, n=120, better=False)
    ends = considered(store, folder, TRIED)
    assert ends is not None
    assert ends.state == "refused"
    assert load_pointers(folder / "probes", "made-up").serving == 1
    assert shadow_version(folder / "probes", "made-up") is None


def test_labels_that_are_not_trusted_end_no_trial(late):
    store, folder = late
    considered(store, folder, TRIED, version=2)
    trial(store, n=120, better=True, source="client")
    waits = considered(store, folder, TRIED, now=NOW + timedelta(days=1))
    assert waits is not None
    assert (waits.state, waits.labels) == ("waiting", 0)
    ends = considered(store, folder, TRIED, now=NOW + timedelta(days=15))
    assert ends is not None
    assert ends.state == "refused"
    assert "after 15 days" in ends.reason
    assert shadow_version(folder / "probes", "made-up") is None


def shadowed(store: Store, folder: Path):
    probes = folder / "probes"
    return in_shadow(
        store,
        load_version(probes, "made-up", 2),
        load_version(probes, "made-up", 1),
        since=NOW.timestamp(),
        metric="right",
        weak_model=KEY,
        trusted=["code"],
    )


def test_in_shadow_a_request_stands_for_those_whose_weak_answer_was_not_seen(late):
    store, folder = late
    trial(store, n=40, better=True)
    assert shadowed(store, folder).weights == pytest.approx(np.ones(40))


@pytest.mark.parametrize(
    "fields",
    [
        {"weak_chance": None},
        {"probe": "made-up@7"},
        {"shadow_probe": "made-up@3"},
        {"shadow_p_success": None},
        {"p_success": None},
        {"at": 0.0},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_what_says_nothing_of_the_two_does_not_count(late, fields):
    store, folder = late
    rng = np.random.default_rng(9)
    rows = vectors(6, rng)
    shared = {
        "p_success": 0.5,
        "probe": "made-up@1",
        "shadow_probe": "made-up@2",
        "shadow_p_success": 0.7,
    }
    at = NOW.timestamp() + 1
    store.append_requests(
        [request("x-0", **{"at": at, **shared, **fields})]
        + [request(f"x-{i}", at, **{**shared, "weak_chance": 0.1 * i}) for i in range(1, 6)]
    )
    put(store, "x", rows, outcomes(rows, rng), origin="traffic")
    found = shadowed(store, folder)
    assert len(found) == 5
    # 1 / 0.1 to 1 / 0.5, with a mean of 1.
    wanted = 1 / np.array([0.1, 0.2, 0.3, 0.4, 0.5])
    assert found.weights == pytest.approx(wanted / wanted.mean())


def test_a_candidate_is_judged_only_by_enough_of_the_holdout(late):
    store, folder = late
    holdout = load_holdout(store, "made-up", metric="right")
    assert holdout is not None
    few = replace(holdout, outcomes=dict(list(holdout.outcomes.items())[:10]))
    candidate = load_version(folder / "probes", "made-up", 2)
    with pytest.raises(TrainingDataError, match="of the 10 queries"):
        judge(store, candidate, None, few, 1, AT_ONCE)


def test_a_refit_on_vectors_that_were_kept_reduced_weighs_what_the_probe_read(begun, tmp_path):
    """All rows are brought to the few directions that the serving probe reads."""
    folder = Path(shutil.copytree(begun, tmp_path / "copy"))
    rng = np.random.default_rng(10)
    with opened(folder) as store:
        saved = load_version(folder / "probes", "made-up", 1)
        subspace = subspace_of(saved)
        store.put_subspace(subspace.id, subspace.bases)
        rows = vectors(300, rng)
        put(store, "live", rows, outcomes(rows, rng), origin="traffic", subspace=subspace)
        store.append_requests([request(f"live-{i}", 500.0) for i in range(300)])
        found = refitted(store, folder)
        assert found.queries == 360
        candidate = load_version(folder / "probes", "made-up", found.version)
        assert candidate.subspace is not None
        assert candidate.subspace.id == subspace.id
        # Its serving predecessor foretells the same of the holdout as with whole vectors.
        assert found.comparison.gain.n == 300
        assert found.comparison.rivals_auroc is not None
        assert found.comparison.rivals_auroc > 0.85
        assert considered(store, folder, version=found.version) is not None


def test_a_candidate_foretells_afterwards_what_was_escalated_without_a_prefill(late):
    """Its vectors came with the weak model's answer in a shadow run, and were kept."""
    store, folder = late
    rows = vectors(6, np.random.default_rng(10))
    at = NOW.timestamp() + 1
    store.append_requests(
        [request(f"x-{i}", at, p_success=0.2, probe="made-up@1") for i in range(6)]
    )
    put(store, "x", rows, np.ones(6), origin="traffic")
    found = shadowed(store, folder)
    candidate = load_version(folder / "probes", "made-up", 2)
    assert found.rival == pytest.approx(np.full(6, 0.2))
    read = dict(zip(POINTS, (rows * np.float32(0.5), rows), strict=True))
    (point,) = candidate.probe.read_points
    assert found.candidate == pytest.approx(candidate.probe.p_success(read[point]), abs=1e-3)
