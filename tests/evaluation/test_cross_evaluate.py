"""Every query judged once, by fits that did not see its group."""

import json
from dataclasses import replace

import numpy as np
import pytest

from foretell.calibration import auroc
from foretell.errors import InputError, TrainingDataError
from foretell.evaluation import cross_evaluate
from foretell.routers import FittedProbeRouter, ProbeRouter, length_router, make_router


def generator():
    return np.random.default_rng(0)


class Spy:
    """Remembers whom it was fitted on and whom it judged; says what the activations show."""

    name, sees = "spy", "prefill"

    def __init__(self):
        self.folds = []

    def fit(self, data, _rng):
        self.folds.append((data, []))
        return self

    def score(self, data):
        self.folds[-1][1].append(data)
        # On a scale that differs from fold to fold.
        return len(self.folds) * 100 - next(iter(data.activations.values()))[:, 15]

    def p_success(self, data):
        return np.full(len(data), self.folds[-1][0].weak.mean())


def test_every_query_is_judged_once_by_a_fit_that_did_not_see_its_group(train):
    spy = Spy()
    cross_evaluate(train, [spy], generator(), folds=4, resamples=20)
    judged = [name for _, (first, *_) in spy.folds for name in first.ids]
    assert len(spy.folds) == 4
    assert sorted(judged) == sorted(train.ids)
    for fitted_on, (first, *_) in spy.folds:
        assert not set(fitted_on.groups) & set(first.groups)
        assert first.weak.size == first.strong.size == 0
        assert fitted_on.weak.mean() == pytest.approx(train.weak.mean(), abs=0.03)


def test_scores_are_comparable_within_a_fold_and_pooled_by_rank(train):
    spy = Spy()
    (found,) = cross_evaluate(train, [spy], generator(), resamples=20).routers
    weak = dict(zip(train.ids, train.weak, strict=True))
    in_folds = []
    for _, (first, *_) in spy.folds:
        shown = -next(iter(first.activations.values()))[:, 15]
        in_folds.append(auroc(shown, [weak[name] for name in first.ids]))
    assert found.auroc.value == pytest.approx(np.mean(in_folds), abs=0.03)
    assert found.auroc.n == found.apgr.n == len(train)


def test_a_constant_ranks_as_well_as_chance_though_its_base_rate_leans_the_wrong_way(make_data):
    data = make_data(90)

    class BaseRate(Spy):
        def score(self, data):
            return self.p_success(data)

    (found,) = cross_evaluate(data, [BaseRate()], generator(), resamples=20).routers
    # Folds of an odd size have the same middle rank but for rounding.
    assert found.auroc.value == pytest.approx(0.5, abs=1e-9)
    assert found.apgr.value in (None, pytest.approx(0.5))


def test_the_summary_is_of_all_queries(train):
    weak = train.weak.copy()
    weak[:20] = np.nan
    routers = [length_router(), make_router("tfidf"), replace(length_router(), name="probe")]
    found = cross_evaluate(replace(train, weak=weak), routers, generator(), resamples=20)
    assert (found.test_size, found.unlabelled, found.folds) == (180, 20, 5)
    assert 135 <= found.train_size <= 150
    assert found.fitted == {}
    assert found.sweep == ()
    assert found.controls.shuffled_auroc is None
    assert set(found.controls.length_residualised) == {"length", "tfidf", "probe"}
    assert len(found.differences) == 2
    assert sum(row.success.n for row in found.reliability) == 180
    json.dumps(found.to_json(), allow_nan=False)


def test_row_order_does_not_matter(train):
    order = np.random.default_rng(5).permutation(len(train))
    one, other = (
        cross_evaluate(data, [length_router()], generator(), resamples=50)
        for data in (train, train.take(order))
    )
    assert one.routers[0].auroc == other.routers[0].auroc
    assert one.routers[0].brier == other.routers[0].brier


def test_texts_that_come_again_in_another_fold_are_counted(train):
    # One query of every group says the same, so each of those has a double in another fold.
    told = "Where is Timbuktu of all places?"
    doubled = {group: row for row, group in enumerate(train.groups)}.values()
    texts = tuple(told if row in doubled else text for row, text in enumerate(train.texts))
    found = cross_evaluate(replace(train, texts=texts), [length_router()], generator(), resamples=2)
    assert found.controls.near_duplicates == len(doubled)
    assert len(found.controls.near_duplicate_pairs) == 10


def test_a_probe_fitted_beforehand_is_refused(train):
    fitted = ProbeRouter(fitted=object.__new__(FittedProbeRouter))
    with pytest.raises(InputError, match="'probe' was fitted beforehand"):
        cross_evaluate(train, [fitted], generator())


def test_what_cannot_be_cut_into_folds_is_refused(train):
    routers = [length_router()]
    with pytest.raises(InputError, match="folds must be at least 2, got 1"):
        cross_evaluate(train, routers, generator(), folds=1)
    with pytest.raises(TrainingDataError, match="5 folds take 5 or more of groups"):
        cross_evaluate(train.take(np.arange(8)), routers, generator())
    with pytest.raises(TrainingDataError, match="0 labelled queries"):
        cross_evaluate(replace(train, weak=np.empty(0)), routers, generator())
    twice = train.take(np.array([0, *range(len(train))]))
    with pytest.raises(InputError, match="1 ids come more than once"):
        cross_evaluate(twice, routers, generator())


def test_progress_is_told_each_step(train):
    told = []
    cross_evaluate(
        train,
        [length_router()],
        generator(),
        folds=2,
        resamples=10,
        progress=lambda done, of, what: told.append((done, of, what)),
    )
    steps = [
        "fitting length, fold 1 of 2",
        "fitting length, fold 2 of 2",
        "checking controls",
        "measuring",
    ]
    assert told == [(done, 4, what) for done, what in enumerate(steps)]
