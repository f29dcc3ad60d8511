"""The routers on activations: a probe of success, and of what is to be gained."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretell.calibration import auroc
from foretell.errors import TrainingDataError
from foretell.records import ReadPoint
from foretell.routers import FittedProbeRouter, FittedRouter, ProbeRouter, Router
from foretell.routers._gain import GainRouter, recovered_gain

POINT = ReadPoint(1, "last")


def with_strong(data):
    """A strong model that fails for reasons of its own, which the same activations show."""
    generator = np.random.default_rng(100)
    hidden = generator.normal(size=len(data))
    direction = np.array([8.0, -7, 6, -5, 4, -3, 2, -1])
    activations = data.activations[POINT] + np.outer(hidden, direction).astype(np.float32)
    strong = (hidden + 0.3 * generator.normal(size=len(data)) < 0.3).astype(float)
    return replace(data, activations={**data.activations, POINT: activations}, strong=strong)


@pytest.fixture
def queries(make_data):
    """The first 300 to fit on, the others to try on."""
    return with_strong(make_data(600, seed=1))


@pytest.fixture
def gain(queries):
    train = queries.take(np.arange(300))
    return GainRouter(kinds=("linear",)).fit(train, np.random.default_rng(0))


def test_a_probe_fitted_before_is_taken_as_it_is(make_data):
    data = make_data()
    fitted = ProbeRouter(kinds=("linear",)).fit(data, np.random.default_rng(0))
    assert isinstance(fitted, FittedProbeRouter)
    assert ProbeRouter(fitted=fitted).fit(data, np.random.default_rng(1)) is fitted


def test_the_kinds_and_read_points_asked_for_are_the_ones_tried(make_data):
    told = []
    router = ProbeRouter(
        read_points=(POINT,),
        kinds=("linear", "fusion"),
        name="mine",
        progress=lambda *at: told.append(at),
    )
    fitted = router.fit(make_data(), np.random.default_rng(0))
    assert fitted.name == "mine"
    assert [row.kind for row in fitted.selection.kinds_tried] == ["linear", "fusion"]
    assert {row.read_point for row in fitted.selection.sweep} == {POINT}
    assert told[-1] == (3, 3)


def test_the_gain_router_is_a_router(gain):
    assert isinstance(GainRouter(), Router)
    assert isinstance(gain, FittedRouter)
    assert (GainRouter().name, GainRouter().sees, gain.name) == ("gain", "prefill", "gain")


def test_escalating_by_gain_wins_back_more_than_escalating_failures(gain, queries):
    new = queries.take(np.arange(300, 600))
    gains, ones = new.strong - new.weak, np.ones(300)
    assert gain.by in {"difference", "direct"}
    assert (
        recovered_gain(gain.score(new), gains, ones)
        > recovered_gain(gain.p_success(new), gains, ones) + 0.03
    )


def test_the_gain_router_foretells_both_models(gain, queries):
    new = queries.take(np.arange(300, 600))
    assert auroc(gain.p_success(new), new.weak) > 0.75
    assert auroc(gain.p_strong(new), new.strong) > 0.75


@pytest.mark.parametrize("by", ["weak", "difference", "direct"])
def test_the_score_is_of_the_order_that_won(gain, queries, by):
    expected = {
        "weak": gain.weak.chances(queries),
        "difference": gain.weak.chances(queries) - gain.strong.chances(queries),
        "direct": gain.direct.scores(queries),
    }
    assert np.array_equal(replace(gain, by=by).score(queries), expected[by])
    assert gain.held_out_area[gain.by] == max(gain.held_out_area.values())


def test_queries_without_a_strong_outcome_teach_the_weak_probe_only(queries):
    train = queries.take(np.arange(300))
    strong = train.strong.copy()
    strong[::3] = np.nan
    fitted = GainRouter(kinds=("linear",)).fit(
        replace(train, strong=strong), np.random.default_rng(0)
    )
    whole = GainRouter(kinds=("linear",)).fit(train, np.random.default_rng(0))
    assert np.array_equal(fitted.p_success(queries), whole.p_success(queries))
    assert not np.array_equal(fitted.p_strong(queries), whole.p_strong(queries))


@pytest.mark.parametrize("strong", [np.empty(0), np.full(120, np.nan)])
def test_a_strong_model_that_nobody_labelled_is_refused(make_data, strong):
    with pytest.raises(TrainingDataError, match="none of 120 labelled queries has an outcome of"):
        GainRouter().fit(replace(make_data(), strong=strong), np.random.default_rng(0))


def test_gain_recovered_by_hand():
    # Escalated in order: a gain of 1 at once (in effect from the middle of its own fifth on, so
    # for 0.9 of the range), then 0, 0, 0, and -1 last, in effect for 0.1.
    gains = np.array([1.0, 0, 0, 0, -1])
    assert recovered_gain(np.arange(5.0), gains, np.ones(5)) == pytest.approx((0.9 - 0.1) / 5)
    assert recovered_gain(np.zeros(5), gains + 0.2, np.ones(5)) == pytest.approx(0.2 / 2)


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from([-1.0, 0.0, 1.0])), min_size=1))
def test_no_order_wins_back_more_than_that_of_the_gains_themselves(rows):
    scores, gains = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    ones = np.ones(len(rows))
    found = recovered_gain(scores, gains, ones)
    assert found <= recovered_gain(-gains, gains, ones) + 1e-9
    assert found == pytest.approx(recovered_gain(2 * scores + 1, gains, ones))
    twice = recovered_gain(np.tile(scores, 2), np.tile(gains, 2), np.ones(2 * len(rows)))
    assert twice == pytest.approx(recovered_gain(scores, gains, 3 * ones))
