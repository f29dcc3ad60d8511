"""Selection finds what is there, holds groups together, and is honest where nothing is."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foretell.calibration import auroc, expected_calibration_error
from foretell.errors import TrainingDataError
from foretell.probes import DEFAULT_KINDS, select_probe
from foretell.probes._fitting import group_folds
from foretell.records import ReadPoint, TokenActivations

QUICK = {
    "kinds": ("linear",),
    "shrink": (0.0,),
    "components": (4,),
    "l2": (10.0,),
    "folds": 3,
    "seed": 0,
}


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
    assert len(fine) == 3 * 2 * 2 * 2  # read points, components, penalties, shrinkages
    assert selection.chosen in fine
    assert selection.chosen.auroc == max(row.auroc for row in fine)
    assert all(row.auroc_sd >= 0 for row in selection.sweep)


def test_only_the_shortlist_reaches_the_fine_stage(data):
    found = select_probe(data, **QUICK, shortlist=1, nested=False)
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
    found = select_probe(
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
    flattered = select_probe(shuffled, **options, nested=False)
    honest = select_probe(shuffled, **options, nested=True)
    assert flattered.chosen.auroc > 0.55
    assert (honest.nested, flattered.nested) == (True, False)
    assert honest.metrics["auroc"].low < 0.5 < honest.metrics["auroc"].high
    assert honest.metrics["auroc"].value < flattered.chosen.auroc


def test_metrics_have_an_interval_and_a_count(data):
    found = select_probe(data, **QUICK)
    assert sorted(found.metrics) == ["auroc", "brier", "ece", "log_loss"]
    for name in ("auroc", "brier", "log_loss"):
        metric = found.metrics[name]
        assert metric.low < metric.value < metric.high
        assert metric.n == len(data)
    assert (found.metrics["ece"].low, found.metrics["ece"].high) == (None, None)


def test_the_same_seed_gives_the_same_selection(data):
    one, other = (select_probe(data, **QUICK) for _ in range(2))
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
    found = select_probe(replace(data, weak=weak), **QUICK, nested=False)
    assert found.unlabelled == 3
    assert len(found.ids) == len(found.scores) == 197
    assert "q5" not in found.ids


def test_success_rates_are_labels_too(data):
    rates = 0.1 + 0.35 * data.weak  # never above a half, so there is no class to balance
    found = select_probe(replace(data, weak=rates), **QUICK, nested=False)
    assert found.chosen.read_point == ReadPoint(1, "mean")
    assert found.p_success.mean() == pytest.approx(rates.mean(), abs=0.03)


def test_progress_counts_up_to_its_total(data):
    for nested, searches in ((False, 1), (True, 4)):
        steps = []
        select_probe(
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
        select_probe(spoil(data), **QUICK)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"read_points": [ReadPoint(9)]}, "'layer9_last' is not in the training set; it holds"),
        ({"read_points": []}, "no read points"),
        ({"folds": 1}, "at least 2 folds, got 1"),
        ({"components": ()}, "nothing to choose from"),
        ({"shortlist": 0}, "nothing to choose from"),
        ({"kinds": ()}, "nothing to choose from"),
        ({"kinds": ("oracle", "linear")}, "unknown kinds of probe oracle; use some of linear"),
    ],
)
def test_options_that_leave_nothing_to_choose_are_refused(data, options, complaint):
    with pytest.raises(TrainingDataError, match=complaint):
        select_probe(data, **{**QUICK, **options})


def test_groups_of_one_class_only_are_refused_when_a_fold_has_nothing_to_learn_from(data):
    of_class = tuple("succeeded" if value else "failed" for value in data.weak)
    with pytest.raises(TrainingDataError, match="all of one class"):
        select_probe(replace(data, groups=of_class), **{**QUICK, "folds": 2}, nested=False)


def test_too_few_labels_for_the_nested_estimate_are_refused_before_the_fold_is_searched(data):
    rows = np.concatenate([np.flatnonzero(data.weak == 1)[:11], np.flatnonzero(data.weak == 0)])
    scarce = data.take(rows)
    with pytest.raises(TrainingDataError, match=r"without one outer fold, .* nested estimate"):
        select_probe(scarce, **QUICK)
    assert select_probe(scarce, **QUICK, nested=False).outcomes.sum() == 11


def halves(make_data, n=300, *, seed=1):
    """Layers 0 and 2 each know half of what decides, so that only both together know it all."""
    data = make_data(n, seed=seed)
    generator = np.random.default_rng(seed)
    parts = generator.normal(size=(2, n))
    shown = {
        ReadPoint(layer, "mean"): (
            np.outer(part, generator.normal(size=24)) + generator.normal(size=(n, 24))
        ).astype(np.float32)
        for layer, part in zip((0, 2), parts, strict=True)
    }
    weak = (parts.sum(axis=0) + 0.3 * generator.normal(size=n) > 0).astype(float)
    return replace(data, weak=weak, activations=shown)


RICH = {**QUICK, "kinds": DEFAULT_KINDS}


def row_of(selection, kind):
    return next(row for row in selection.kinds_tried if row.kind == kind)


def test_a_richer_kind_wins_where_read_points_complete_each_other(make_data):
    found = select_probe(halves(make_data), **RICH, nested=False)
    assert found.probe.kind in {"several", "mix"}
    assert found.probe.read_points == (ReadPoint(0, "mean"), ReadPoint(2, "mean"))
    assert row_of(found, found.probe.kind).auroc > row_of(found, "linear").auroc + 0.05


def test_the_linear_probe_stays_where_one_read_point_knows_it_all(data):
    found = select_probe(data, **RICH, nested=False)
    assert found.probe.kind == "linear"
    assert [row.kind for row in found.kinds_tried if row.chosen] == ["linear"]


@pytest.mark.parametrize(("tells", "kind"), [(True, "fusion"), (False, "linear")])
def test_fusion_wins_only_when_the_first_token_tells_something(data, tells, kind):
    generator = np.random.default_rng(7)
    entropy = generator.normal(size=len(data)) - (3 * data.weak if tells else 0)
    found = select_probe(replace(data, first_entropy=entropy), **RICH, nested=False)
    assert found.probe.kind == kind
    assert found.chosen.read_point == ReadPoint(1, "mean")


def test_every_kind_tried_has_its_numbers_and_one_is_chosen(make_data):
    found = select_probe(halves(make_data), **RICH, nested=False)
    assert [row.kind for row in found.kinds_tried] == ["linear", "several", "mix", "fusion"]
    assert all(0.5 < row.auroc <= 1 and row.auroc_sd >= 0 for row in found.kinds_tried)
    assert all(0 < row.log_loss < 0.7 and row.skipped is None for row in found.kinds_tried)
    assert [row.chosen for row in found.kinds_tried].count(True) == 1
    assert row_of(found, found.probe.kind).chosen


def test_a_kind_that_cannot_be_tried_says_why(data):
    found = select_probe(
        data,
        **{**QUICK, "kinds": ("attention", "linear", "several", "mix")},
        read_points=[ReadPoint(1, "mean")],
        nested=False,
    )
    assert {row.kind: row.skipped for row in found.kinds_tried} == {
        "linear": None,
        "several": "there is one read point only",
        "mix": "there is one read point only",
        "attention": "there are no activations of every token",
    }
    assert row_of(found, "mix").auroc is None


def test_a_selection_of_kinds_that_cannot_be_tried_is_refused(data):
    with pytest.raises(TrainingDataError, match=r"no kind .* \(mix: there is one read point only"):
        select_probe(
            data, **{**QUICK, "kinds": ("mix",)}, read_points=[ReadPoint(1, "mean")], nested=False
        )


def test_a_kind_asked_for_alone_is_taken(make_data):
    for kind in ("several", "mix", "fusion"):
        found = select_probe(halves(make_data), **{**QUICK, "kinds": (kind,)}, nested=False)
        assert found.probe.kind == kind
        assert found.scores.shape == found.p_success.shape == (300,)


def test_the_nested_estimate_repeats_the_choice_of_kind(make_data):
    data = halves(make_data)
    steps = []
    found = select_probe(data, **RICH, nested=True, progress=lambda *at: steps.append(at))
    assert steps[-1] == ((1 + 3) * (2 + 2 + 3),) * 2
    assert found.metrics["auroc"].value == pytest.approx(
        auroc(found.p_success, data.weak), abs=0.05
    )


def test_many_labels_allow_read_points_to_be_concatenated(make_data):
    data = halves(make_data, 1100)
    found = select_probe(data, **{**QUICK, "kinds": ("several",)}, nested=False)
    assert found.probe.kind == "several"
    assert found.metrics["auroc"].value > 0.9


@pytest.mark.torch
@pytest.mark.parametrize("kind", ["mlp", "attention"])
def test_kinds_that_torch_fits_are_tried_through_the_same_door(data, kind):
    rows = data.take(np.arange(90))
    point = ReadPoint(1, "tokens")
    tokens = TokenActivations.stack(
        [np.repeat(row[None], 2, axis=0) for row in rows.activations[ReadPoint(1, "mean")]]
    )
    found = select_probe(
        replace(rows, sequences={point: tokens}), **{**QUICK, "kinds": (kind,)}, nested=False
    )
    assert found.probe.kind == kind
    assert row_of(found, kind).auroc > 0.6


def test_a_row_without_weight_might_as_well_not_be_there(data):
    weights = np.ones(len(data))
    weights[:30] = 0
    wrong = np.where(weights > 0, data.weak, 1 - data.weak)
    weighted = select_probe(replace(data, weights=weights, weak=wrong), **RICH, nested=False)
    without = select_probe(data.take(weights > 0), **RICH, nested=False)
    assert weighted.ids == without.ids
    assert weighted.unlabelled == 30
    assert np.array_equal(weighted.scores, without.scores)
    assert weighted.metrics == without.metrics


def test_weights_reach_the_metrics_and_the_calibration(data):
    """Successes that count threefold make success likelier, foretold and measured."""
    weights = np.where(data.weak == 1, 3.0, 1.0)
    found = select_probe(replace(data, weights=weights), **QUICK, nested=False)
    rate = weights @ data.weak / weights.sum()
    assert weights @ found.p_success / weights.sum() == pytest.approx(rate, abs=0.03)
    plain = select_probe(data, **QUICK, nested=False)
    assert found.metrics["brier"].value != plain.metrics["brier"].value


@pytest.mark.parametrize("weights", [-1.0, np.nan])
def test_weights_that_cannot_count_a_row_are_refused(data, weights):
    with pytest.raises(TrainingDataError, match="weights of shape"):
        select_probe(replace(data, weights=np.full(len(data), weights)), **QUICK)


def test_components_that_the_labels_cannot_have_are_left_out_or_refused(data):
    few = data.take(np.arange(60))
    options = {**QUICK, "nested": False}
    found = select_probe(few, **{**options, "components": (8, 61)})
    assert {row.components for row in found.sweep} == {8}
    with pytest.raises(TrainingDataError, match="60 labelled queries have no 61 principal"):
        select_probe(few, **{**options, "components": (61, 90)})


def test_components_that_an_outer_fold_cannot_have_are_refused(data):
    few = data.take(np.arange(60))
    with pytest.raises(TrainingDataError, match="without one outer fold, 40 labelled queries"):
        select_probe(few, **{**QUICK, "components": (50,)})


def test_twins_in_one_group_tell_each_other_nothing(make_data):
    """Labels are drawn at random for each pair of twins: only a leak can foretell them."""
    half = make_data(100, width=60)
    twice = half.take(np.tile(np.arange(100), 2))
    labels = np.random.default_rng(0).integers(0, 2, 100).astype(float)
    twins = replace(
        twice,
        ids=tuple(f"q{i}" for i in range(200)),
        weak=np.tile(labels, 2),
        groups=tuple(f"pair {i}" for i in range(100)) * 2,
    )
    options = {**QUICK, "components": (60,), "read_points": [ReadPoint(0, "mean")], "nested": False}
    apart = replace(twins, groups=twins.ids)
    assert auroc(select_probe(apart, **options).scores, apart.weak) > 0.65
    assert auroc(select_probe(twins, **options).scores, twins.weak) < 0.6


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), groups=st.integers(5, 40), folds=st.integers(2, 5))
def test_no_group_is_ever_in_two_folds(seed, groups, folds):
    generator = np.random.default_rng(seed)
    names = np.asarray([f"g{g}" for g in generator.integers(0, groups, 80)])
    succeeded = generator.random(80) < 0.4
    if len(set(names)) < folds:
        return
    found = group_folds(succeeded, names, folds, seed)
    assert sorted(np.concatenate(found)) == list(range(80))
    assert sum(len(set(names[rows])) for rows in found) == len(set(names))
