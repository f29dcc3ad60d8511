"""Selection finds what is there, holds groups together, and is honest where nothing is."""

from dataclasses import replace

import numpy as np
import pytest

from foretell.calibration import auroc, expected_calibration_error
from foretell.errors import TrainingDataError
from foretell.probes import select_linear_probe
from foretell.probes._fitting import group_folds
from foretell.records import ReadPoint

QUICK = {"components": (4,), "l2": (10.0,), "folds": 3, "seed": 0}


def test_it_finds_the_layer_that_knows(selection, data):
    assert selection.chosen.read_point == ReadPoint(1, "mean")
    assert selection.probe.read_point == ReadPoint(1, "mean")
    assert selection.chosen.auroc > 0.8
    scores = selection.probe.score(data.activations[ReadPoint(1, "mean")])
    assert auroc(scores, data.weak) > 0.85


def test_the_sweep_holds_every_point_once_and_the_grid_of_the_shortlist(selection, data):
    coarse = [row for row in selection.sweep if not row.fine]
    fine = [row for row in selection.sweep if row.fine]
    assert [row.read_point for row in coarse] == sorted(data.activations)
    assert len(fine) == 3 * 2 * 2
    assert selection.chosen in fine
    assert selection.chosen.auroc == max(row.auroc for row in fine)
    assert all(row.auroc_sd >= 0 for row in selection.sweep)


def test_only_the_shortlist_reaches_the_fine_stage(data):
    found = select_linear_probe(data, **QUICK, shortlist=1, nested=False)
    assert {row.read_point for row in found.sweep if row.fine} == {ReadPoint(1, "mean")}


def test_out_of_fold_columns_share_their_rows(selection, data):
    assert selection.ids == data.ids
    assert np.array_equal(selection.outcomes, data.weak)
    assert selection.unlabelled == 0
    assert auroc(selection.scores, selection.outcomes) == pytest.approx(
        selection.chosen.auroc, abs=0.05
    )
    assert expected_calibration_error(selection.p_success, selection.outcomes) < 0.12


def test_out_of_fold_scores_have_not_seen_the_row(data):
    """With labels at random, held-out scores rank at chance; scores of training rows do not."""
    labels = np.random.default_rng(0).integers(0, 2, len(data)).astype(float)
    point = ReadPoint(0, "mean")
    found = select_linear_probe(
        replace(data, weak=labels),
        read_points=[point],
        components=(24,),
        l2=(1.0,),
        nested=False,
        seed=0,
    )
    assert 0.4 < auroc(found.scores, labels) < 0.6
    assert auroc(found.probe.score(data.activations[point]), labels) > 0.6


def test_labels_at_random_give_an_honest_half_although_the_best_of_many_looks_better(
    make_data,
):
    data = make_data(150, layers=20)
    labels = np.random.default_rng(3).integers(0, 2, len(data)).astype(float)
    shuffled = replace(data, weak=labels)
    options = {"components": (8,), "l2": (10.0,), "folds": 3, "seed": 0}
    flattered = select_linear_probe(shuffled, **options, nested=False)
    honest = select_linear_probe(shuffled, **options, nested=True)
    assert flattered.chosen.auroc > 0.55
    assert (honest.nested, flattered.nested) == (True, False)
    assert honest.metrics["auroc"].low < 0.5 < honest.metrics["auroc"].high
    assert honest.metrics["auroc"].value < flattered.metrics["auroc"].value


def test_metrics_have_an_interval_and_a_count(data):
    found = select_linear_probe(data, **QUICK)
    assert sorted(found.metrics) == ["auroc", "brier", "ece", "log_loss"]
    for name in ("auroc", "brier", "log_loss"):
        metric = found.metrics[name]
        assert metric.low < metric.value < metric.high
        assert metric.n == len(data)
    assert (found.metrics["ece"].low, found.metrics["ece"].high) == (None, None)


def test_the_same_seed_gives_the_same_selection(data):
    one, other = (select_linear_probe(data, **QUICK) for _ in range(2))
    assert np.array_equal(one.probe.weight, other.probe.weight)
    assert (one.sweep, one.metrics) == (other.sweep, other.metrics)
    assert np.array_equal(one.p_success, other.p_success)


def test_folds_share_no_group_balance_outcomes_and_hold_every_row_once():
    generator = np.random.default_rng(0)
    groups = np.asarray([f"g{g}" for g in generator.integers(0, 60, 300)])
    succeeded = generator.random(300) < 0.3
    folds = group_folds(succeeded, groups, 5, seed=0)
    assert sorted(np.concatenate(folds)) == list(range(300))
    of_fold = [set(groups[rows]) for rows in folds]
    assert sum(map(len, of_fold)) == len(set(groups))
    assert all(abs(succeeded[rows].mean() - succeeded.mean()) < 0.1 for rows in folds)


def test_unlabelled_queries_are_left_out_and_counted(data):
    weak = data.weak.copy()
    weak[[3, 5, 7]] = np.nan
    found = select_linear_probe(replace(data, weak=weak), **QUICK, nested=False)
    assert found.unlabelled == 3
    assert len(found.ids) == len(found.scores) == 197
    assert "q5" not in found.ids


def test_success_rates_are_labels_too(data):
    rates = 0.1 + 0.35 * data.weak  # never above a half, so there is no class to balance
    found = select_linear_probe(replace(data, weak=rates), **QUICK, nested=False)
    assert found.chosen.read_point == ReadPoint(1, "mean")
    assert found.p_success.mean() == pytest.approx(rates.mean(), abs=0.03)


def test_progress_counts_up_to_its_total(data):
    for nested, searches in ((False, 1), (True, 4)):
        steps = []
        select_linear_probe(
            data,
            **QUICK,
            shortlist=2,
            nested=nested,
            progress=lambda done, total, steps=steps: steps.append((done, total)),
        )
        total = searches * (3 + 2)
        assert steps == [(i + 1, total) for i in range(total)]


def first_rows(data, n):
    return data.take(np.arange(n))


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda d: first_rows(d, 0), "the training set is empty"),
        (lambda d: replace(d, weak=np.empty(0)), "none of the 200 queries are labelled"),
        (lambda d: replace(d, weak=d.weak * np.nan), "the training set is empty"),
        (lambda d: replace(d, weak=d.weak * 0), "none of the 200 labelled queries are successes"),
        (lambda d: first_rows(d, 15), "wanted at least 10 of each"),
        (lambda d: replace(d, ids=("q1", *d.ids[1:])), "1 of 200 query ids .* such as 'q1'"),
        (lambda d: replace(d, groups=("a", "b") * 100), "2 groups, too few for 3 folds"),
        (lambda d: replace(d, activations={}), "holds no activations"),
        (
            lambda d: replace(d, activations={ReadPoint(4): np.full((200, 3), np.nan)}),
            "activations at layer 4, last are not finite in 200 of 200",
        ),
    ],
)
def test_data_that_cannot_support_a_selection_is_refused(data, spoil, complaint):
    with pytest.raises(TrainingDataError, match=complaint):
        select_linear_probe(spoil(data), **QUICK)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"read_points": [ReadPoint(9)]}, "'layer9_last' is not in the training set; it holds"),
        ({"read_points": []}, "no read points"),
        ({"folds": 1}, "at least 2 folds, got 1"),
        ({"components": ()}, "nothing to choose from"),
        ({"shortlist": 0}, "nothing to choose from"),
    ],
)
def test_options_that_leave_nothing_to_choose_are_refused(data, options, complaint):
    with pytest.raises(TrainingDataError, match=complaint):
        select_linear_probe(data, **{**QUICK, **options})


def test_groups_of_one_class_only_are_refused_when_a_fold_has_nothing_to_learn_from(data):
    of_class = tuple("succeeded" if value else "failed" for value in data.weak)
    with pytest.raises(TrainingDataError, match="all of one class"):
        select_linear_probe(replace(data, groups=of_class), **{**QUICK, "folds": 2}, nested=False)


def test_too_few_labels_for_the_nested_estimate_are_refused_before_the_fold_is_searched(data):
    rows = np.concatenate([np.flatnonzero(data.weak == 1)[:11], np.flatnonzero(data.weak == 0)])
    scarce = data.take(rows)
    with pytest.raises(TrainingDataError, match=r"without one outer fold, .* nested estimate"):
        select_linear_probe(scarce, **QUICK)
    assert select_linear_probe(scarce, **QUICK, nested=False).outcomes.sum() == 11
