"""A whole comparison of routers."""

import json
from dataclasses import replace

import numpy as np
import pytest

import foretell.evaluation
from foretell.calibration import auroc, brier, expected_calibration_error
from foretell.errors import InputError, TrainingDataError
from foretell.evaluation import apgr, cpt, evaluate_routers
from foretell.routers import (
    ProbeRouter,
    first_token_entropy_router,
    length_router,
    make_router,
)


def generator():
    return np.random.default_rng(0)


def test_every_router_is_measured_on_the_test_queries(evaluation, test_set):
    assert [result.name for result in evaluation.routers] == [
        "embedding", "probe", "tfidf", "length", "random", "weak",
    ]  # fmt: skip
    for result in evaluation.routers:
        fitted = evaluation.fitted[result.name]
        scores, chances = fitted.score(test_set), fitted.p_success(test_set)
        answers = test_set.weak, test_set.strong
        assert result.auroc.value == pytest.approx(auroc(scores, test_set.weak))
        assert result.brier.value == pytest.approx(brier(chances, test_set.weak))
        assert result.ece.value == expected_calibration_error(chances, test_set.weak)
        assert result.apgr.value == pytest.approx(apgr(scores, *answers))
        assert result.cpt50.value == pytest.approx(cpt(scores, *answers, target=0.5))
        assert result.cpt80.value == pytest.approx(cpt(scores, *answers, target=0.8))
        assert result.auroc.low <= result.auroc.value <= result.auroc.high
        assert result.auroc.n == result.apgr.n == 150


def test_the_summary_counts_what_was_used(evaluation, test_set):
    assert (evaluation.train_size, evaluation.test_size, evaluation.unlabelled) == (200, 150, 0)
    assert evaluation.base_rate == pytest.approx(test_set.weak.mean())
    assert evaluation.strong_rate == pytest.approx(test_set.strong.mean())
    assert evaluation.domains == ("made up",)
    assert evaluation.model == test_set.model


def test_the_probe_is_compared_with_every_other_router_on_the_same_resamples(evaluation):
    value = {result.name: result.auroc.value for result in evaluation.routers}
    assert [row.against for row in evaluation.differences] == [n for n in value if n != "probe"]
    for row in evaluation.differences:
        assert row.auroc.value == pytest.approx(value["probe"] - value[row.against])
        assert row.auroc.low <= row.auroc.value <= row.auroc.high
        assert row.apgr.n == 150
    over_random = next(row for row in evaluation.differences if row.against == "random")
    assert over_random.auroc.low > 0


def test_the_best_baseline_sees_the_query_alone(evaluation):
    value = {r.name: r.auroc.value for r in evaluation.routers if r.sees == "query"}
    assert set(value) == {"embedding", "tfidf", "length"}
    assert evaluation.best_baseline == max(value, key=value.get)


def test_a_router_equals_itself_with_no_doubt(train, test_set):
    twins = [ProbeRouter(), replace(ProbeRouter(), name="twin")]
    fitted = ProbeRouter().fit(train, generator())
    twins = [replace(router, fitted=fitted) for router in twins]
    (difference,) = evaluate_routers(train, test_set, twins, generator()).differences
    assert (difference.auroc.value, difference.auroc.low, difference.auroc.high) == (0, 0, 0)


def test_thirds_are_by_the_embedding_routers_score(evaluation, test_set):
    scores = evaluation.fitted["embedding"].score(test_set)
    order = np.argsort(scores)
    for third, rows in zip(evaluation.slices, np.array_split(order, 3), strict=True):
        assert third.n == len(rows) == 50
        assert third.base_rate == pytest.approx(test_set.weak[rows].mean())
        for name, fitted in evaluation.fitted.items():
            expected = auroc(fitted.score(test_set)[rows], test_set.weak[rows])
            assert third.auroc[name].value == pytest.approx(expected)
    names = [third.name for third in evaluation.slices]
    assert names == ["lower third", "middle third", "upper third"]


def test_reliability_bins_hold_every_query_once(evaluation, test_set):
    bins = evaluation.reliability
    assert [row.success.n for row in bins] == [15] * 10
    assert [row.p_success for row in bins] == sorted(row.p_success for row in bins)
    assert sum(row.success.value for row in bins) / 10 == pytest.approx(test_set.weak.mean())


def test_the_most_wrong_cases_come_worst_first(evaluation, test_set):
    chances = evaluation.fitted["probe"].p_success(test_set)
    distance = np.sort(np.abs(chances - test_set.weak))[::-1][:10]
    found = [abs(case.p_success - case.weak) for case in evaluation.most_wrong]
    assert found == pytest.approx(distance)
    worst = test_set.ids.index(evaluation.most_wrong[0].id)
    assert evaluation.most_wrong[0].text == test_set.texts[worst]
    assert evaluation.most_wrong[0].strong == test_set.strong[worst]


def test_the_sweep_and_the_controls_are_there(evaluation):
    assert {row.read_point.name for row in evaluation.sweep} >= {"layer0_last", "layer2_mean"}
    assert evaluation.controls.near_duplicates == 0
    assert 0.2 < evaluation.controls.shuffled_auroc < 0.8


def test_the_json_has_the_contracts_leaves_and_no_nan(evaluation):
    found = json.loads(json.dumps(evaluation.to_json(), allow_nan=False))
    for metric in ("auroc", "apgr", "cpt50", "cpt80"):
        assert set(found[metric]) == {"probe", "embedding", "tfidf", "length", "random", "weak"}
        assert set(found[metric]["probe"]) == {"value", "low", "high", "n"}
    assert set(found["ece"]) == {"value", "low", "high", "n"}
    assert found["ece"] == found["ece_by_router"]["probe"]
    assert set(found["slices"]) == {"lower third", "middle third", "upper third"}
    assert len(found["curves"]["probe"]["share"]) == 101
    assert found["sweep"][0]["read_point"] == "layer0_last"
    assert found["model"]["source"] == "pypi:tiny"


def test_row_order_does_not_matter(train, test_set, evaluation, make_routers):
    order = np.random.default_rng(5).permutation(len(test_set))
    other = evaluate_routers(train, test_set.take(order), make_routers(), generator())
    for one, two in zip(evaluation.routers, other.routers, strict=True):
        assert one.auroc.value == pytest.approx(two.auroc.value)
        assert one.apgr.low == pytest.approx(two.apgr.low, abs=1e-9)
    assert [case.id for case in evaluation.most_wrong] == [case.id for case in other.most_wrong]


def test_a_router_that_takes_part_later_changes_nothing_before_it(train, test_set):
    some = [make_router("random"), make_router("tfidf")]
    alone = evaluate_routers(train, test_set, some, generator())
    joined = evaluate_routers(train, test_set, [*some, length_router()], generator())
    assert alone.routers[0].auroc == joined.routers[0].auroc
    assert alone.routers[1].apgr == joined.routers[1].apgr


def test_without_a_strong_model_the_rest_is_measured(train, test_set):
    for strong in (np.empty(0), np.full(len(test_set), np.nan)):
        found = evaluate_routers(
            train, replace(test_set, strong=strong), [length_router(), ProbeRouter()], generator()
        )
        assert found.strong_rate is None
        assert found.routers[0].auroc.value is not None
        assert found.routers[0].apgr.value is found.routers[0].curve is None
        assert found.differences[0].apgr.value is None
        assert found.most_wrong[0].strong is None
        assert found.to_json()["cpt80"]["length"] == {
            "value": None, "low": None, "high": None, "n": 0,
        }  # fmt: skip


def test_a_strong_outcome_missing_here_and_there_is_left_out_of_the_curve_alone(train, test_set):
    strong = test_set.strong.copy()
    strong[::3] = np.nan
    found = evaluate_routers(
        train, replace(test_set, strong=strong), [length_router()], generator()
    )
    assert found.routers[0].auroc.n == 150
    assert found.routers[0].apgr.n == 100
    assert found.strong_rate == pytest.approx(np.nanmean(strong))


def test_unlabelled_queries_are_left_out_and_counted(train, test_set):
    weak = test_set.weak.copy()
    weak[:30] = np.nan
    found = evaluate_routers(train, replace(test_set, weak=weak), [length_router()], generator())
    assert (found.test_size, found.unlabelled) == (120, 30)


def test_one_class_in_the_test_set_leaves_auroc_undefined(train, test_set):
    sure = replace(test_set, weak=np.ones(len(test_set)))
    found = evaluate_routers(train, sure, [length_router(), ProbeRouter()], generator())
    assert found.routers[0].auroc.value is None
    assert found.best_baseline is None
    assert found.controls.shuffled_auroc is None
    json.dumps(found.to_json(), allow_nan=False)


def test_without_probe_and_embedding_their_parts_are_empty(train, test_set):
    found = evaluate_routers(train, test_set, [length_router()], generator())
    assert found.differences == found.slices == found.reliability == found.sweep == ()
    assert found.most_wrong == ()
    assert found.controls.shuffled_auroc is None
    assert found.to_json()["ece"] is None
    assert found.router("probe") is None


def test_routers_do_not_see_the_outcomes_they_are_judged_on(train, test_set):
    seen = []

    class Peeking:
        name, sees = "peeking", "query"

        def fit(self, _data, _rng):
            return self

        def score(self, data):
            seen.append((data.weak.size, data.strong.size))
            return np.zeros(len(data))

        p_success = score

    evaluate_routers(train, test_set, [Peeking()], generator())
    assert seen == [(0, 0), (0, 0)]


def test_progress_is_told_each_step(train, test_set):
    told = []
    evaluate_routers(
        train,
        test_set,
        [length_router(), make_router("weak")],
        generator(),
        resamples=10,
        progress=lambda done, of, what: told.append((done, of, what)),
    )
    steps = ["fitting length", "fitting weak", "measuring", "checking controls"]
    assert told == [(done, 4, what) for done, what in enumerate(steps)]


def test_names_that_repeat_and_no_routers_at_all_are_refused(train, test_set):
    for routers in ([], [length_router(), length_router()]):
        with pytest.raises(InputError, match="wanted at least one, each with its own name"):
            evaluate_routers(train, test_set, routers, generator())


def test_a_test_set_without_labels_is_refused(train, test_set):
    for weak in (np.empty(0), np.full(len(test_set), np.nan)):
        with pytest.raises(InputError, match="none of 150 test queries has an outcome"):
            evaluate_routers(train, replace(test_set, weak=weak), [length_router()], generator())


def test_a_router_that_cannot_be_fitted_says_why(train, test_set):
    with pytest.raises(TrainingDataError, match="'first_entropy' holds no value"):
        evaluate_routers(train, test_set, [first_token_entropy_router()], generator())


def test_every_public_name_is_listed_once():
    rooms = {"domains"}
    public = {name for name in vars(foretell.evaluation) if not name.startswith("_")} - rooms
    assert sorted(public) == sorted(foretell.evaluation.__all__)
