"""What every router promises, ours or another package's."""

from dataclasses import replace

import numpy as np
import pytest

from foretell.calibration import auroc, expected_calibration_error
from foretell.errors import TrainingDataError
from foretell.routers import FittedRouter, Router, available_routers, make_router

NEEDS_TORCH = "text_classifier"
NEEDS_STRONG = "gain"  # its score is no chance of success, either: it has tests of its own


def each(names):
    marks = {NEEDS_TORCH: [pytest.mark.torch]}
    params = [pytest.param(n, marks=marks.get(n, [])) for n in names if n != NEEDS_STRONG]
    return pytest.mark.parametrize("name", params)


every_router = each(available_routers())
every_learner = each(n for n in available_routers() if n not in {"random", "weak", "strong"})
TEXTS = ["", " ", "2+2?", "x" * 10_000, "¿qué? 你好 🙂", "a\ud800b", "\x00", "<b>&amp;</b>"]


def any_texts(data):
    """The first queries of ``data`` with texts that routers may not like."""
    return replace(data.take(np.arange(len(TEXTS))), texts=tuple(TEXTS))


@every_router
def test_a_router_says_its_name_and_what_it_sees(name, make, fitted):
    router = make(name)
    assert isinstance(router, Router)
    assert isinstance(fitted(name), FittedRouter)
    assert router.name == fitted(name).name == name
    assert router.sees in {"nothing", "query", "prefill", "answer"}


@every_router
def test_any_text_is_scored_finite_and_twice_the_same(name, make_data, fitted):
    data = any_texts(make_data(seed=5))
    scores, chances = fitted(name).score(data), fitted(name).p_success(data)
    assert scores.shape == chances.shape == (len(TEXTS),)
    assert scores.dtype == chances.dtype == np.float64
    assert np.isfinite(scores).all()
    assert ((chances >= 0) & (chances <= 1)).all()
    assert np.array_equal(scores, fitted(name).score(data))
    assert np.array_equal(chances, fitted(name).p_success(data))


@every_router
def test_row_order_does_not_matter(name, make_data, fitted):
    data = make_data(seed=6)
    order = np.random.default_rng(0).permutation(len(data))
    shuffled = fitted(name).score(data.take(order))
    assert shuffled == pytest.approx(fitted(name).score(data)[order], rel=1e-6, abs=1e-9)


@every_router
def test_a_row_alone_is_scored_as_in_its_batch(name, make_data, fitted):
    data = any_texts(make_data(seed=7))
    alone = [fitted(name).score(data.take(np.array([row])))[0] for row in range(len(data))]
    assert alone == pytest.approx(fitted(name).score(data), rel=1e-6, abs=1e-9)


@every_router
def test_no_rows_give_no_scores(name, make_data, fitted):
    none = make_data(seed=8).take(np.array([], dtype=np.int64))
    assert fitted(name).score(none).shape == fitted(name).p_success(none).shape == (0,)


@every_router
def test_outcomes_are_not_looked_at_when_predicting(name, make_data, fitted):
    data = make_data(seed=9)
    blind = replace(data, weak=np.empty(0))
    assert np.array_equal(fitted(name).score(data), fitted(name).score(blind))


@every_router
@pytest.mark.parametrize(("outcome", "said"), [(1.0, "never fails"), (0.0, "never succeeds")])
def test_one_class_is_refused(name, outcome, said, make, make_data):
    data = make_data()
    data = replace(data, weak=np.full(len(data), outcome))
    with pytest.raises(TrainingDataError, match=said):
        make(name).fit(data, np.random.default_rng(0))


@every_router
def test_labels_that_are_missing_are_refused(name, make, make_data):
    data = make_data()
    for weak in (np.empty(0), np.full(len(data), np.nan)):
        with pytest.raises(TrainingDataError, match="none of 120 queries has an outcome"):
            make(name).fit(replace(data, weak=weak), np.random.default_rng(0))


@every_router
def test_an_unlabelled_row_changes_nothing(name, make, make_data):
    data = make_data()
    weak = data.weak.copy()
    weak[::4] = np.nan
    partly = replace(data, weak=weak)
    known = partly.take(np.isfinite(weak))
    new = make_data(seed=10)
    of_partly = make(name).fit(partly, np.random.default_rng(3)).score(new)
    assert np.array_equal(of_partly, make(name).fit(known, np.random.default_rng(3)).score(new))


@every_learner
def test_a_learner_ranks_new_queries_above_chance_and_is_calibrated(name, make_data, fitted):
    new = make_data(600, seed=11)
    chances = fitted(name).p_success(new)
    found = auroc(chances, new.weak)
    assert found is not None
    assert found > 0.75
    error = expected_calibration_error(chances, new.weak)
    assert error is not None
    assert error < 0.15


@every_learner
def test_calibration_keeps_the_ranking(name, make_data, fitted):
    new = make_data(seed=12)
    order = np.argsort(fitted(name).score(new), kind="stable")
    assert (np.diff(fitted(name).p_success(new)[order]) >= 0).all()


@every_router
def test_a_row_of_weight_zero_changes_nothing(name, make, make_data):
    data = make_data()
    weights = np.where(np.arange(len(data)) % 4 == 0, 0.0, 1.0)
    weighted = make(name).fit(replace(data, weights=weights), np.random.default_rng(3))
    without = make(name).fit(data.take(weights > 0), np.random.default_rng(3))
    new = make_data(seed=10)
    assert weighted.score(new) == pytest.approx(without.score(new), rel=1e-6, abs=1e-9)


@every_router
@pytest.mark.parametrize("weight", [-1.0, np.nan, np.inf])
def test_a_weight_that_is_none_is_refused(name, weight, make, make_data):
    data = make_data()
    weights = np.ones(len(data))
    weights[3] = weight
    with pytest.raises(TrainingDataError, match="1 of 120 weights are negative or not finite"):
        make(name).fit(replace(data, weights=weights), np.random.default_rng(0))


def test_a_router_of_another_package_is_found(monkeypatch):
    from importlib.metadata import EntryPoint

    entry = EntryPoint("theirs", "foretell.routers:length_router", "foretell.routers")
    monkeypatch.setattr("foretell.routers._registry.entry_points", lambda **_: [entry])
    assert available_routers()[-1] == "theirs"
    assert make_router("theirs").name == "length"
