"""A whole comparison of routers."""

import json
from dataclasses import replace

import numpy as np
import pytest

import foretell.evaluation
from foretell.calibration import auroc, brier, expected_calibration_error
from foretell.config import Price
from foretell.errors import InputError, TrainingDataError
from foretell.evaluation import Prices, apgr, cpt, evaluate_routers
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
    alone = evaluate_routers(train, test_set, some, generator(), resamples=50)
    joined = evaluate_routers(train, test_set, [*some, length_router()], generator(), resamples=50)
    assert alone.routers[0].auroc == joined.routers[0].auroc
    assert alone.routers[1].apgr == joined.routers[1].apgr


def test_without_a_strong_model_the_rest_is_measured(train, test_set):
    for strong in (np.empty(0), np.full(len(test_set), np.nan)):
        found = evaluate_routers(
            train,
            replace(test_set, strong=strong),
            [length_router(), ProbeRouter()],
            generator(),
            resamples=50,
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
    steps = ["fitting length", "fitting weak", "checking controls", "measuring"]
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


@pytest.fixture(scope="module")
def counted_test_set(test_set):
    """With tokens, and an attribute of three values, one of them rare."""
    n = len(test_set)
    return replace(
        test_set,
        attributes=tuple({"field": ("city", "country", "rare")[min(i % 20, 2)]} for i in range(n)),
        prompt_tokens=np.full(n, 1000.0),
        weak_tokens=np.full(n, 100.0),
        strong_prompt_tokens=np.full(n, 800.0),
        strong_tokens=np.where(np.arange(n) < 3, np.nan, 200.0),
    )


def by_field(test_set):
    """City and country in turns."""
    return replace(
        test_set,
        attributes=tuple(
            {"field": "city" if i % 2 else "country", "rank": i} for i in range(len(test_set))
        ),
    )


@pytest.fixture(scope="module")
def routers_with_costs(train, counted_test_set):
    routers = [ProbeRouter(), make_router("tfidf"), length_router(), make_router("random")]
    return evaluate_routers(
        train, counted_test_set, routers, generator(), overheads={"tfidf": 0.001}
    )


def test_costs_are_counted_where_tokens_are_known(routers_with_costs):
    found = routers_with_costs
    assert found.cost_basis == "tokens"
    # USD for 1,000 queries of 1,000 + 100 tokens by the weak model, 800 + 200 by the strong.
    assert found.costs.always_weak.value == pytest.approx(0.028)
    assert found.costs.always_strong.value == pytest.approx(4.0)
    assert found.costs.always_weak.value < found.costs.oracle.value < 4.0
    assert found.costs.assumed == {"strong_tokens": 3}
    ends = {r.name: r.cost.curve.usd_per_1k_at([0, 1]) for r in found.routers}
    assert ends["length"] == pytest.approx([0.028, 4.0])
    assert ends["tfidf"] == pytest.approx([1.028, 5.0])
    assert ends["probe"] == pytest.approx([0.028, 4.02])


def test_saving_is_what_the_cost_at_equal_quality_leaves(routers_with_costs):
    for result in routers_with_costs.routers:
        spent = result.cost.equal_quality.value / routers_with_costs.costs.always_strong.value
        assert result.qnc.value == pytest.approx(spent)
        assert result.saving.value == pytest.approx(1 - spent)
        assert result.saving.low == pytest.approx(1 - result.qnc.high)
        assert result.saving.low <= result.saving.value <= result.saving.high
        assert result.cost.near_quality.value <= result.cost.equal_quality.value
        assert result.audc.value <= result.aiq.value


def test_the_gap_closed_is_between_the_best_simple_router_and_the_oracle(routers_with_costs):
    for metric, gap in routers_with_costs.gap_closed.items():
        of = {r.name: getattr(r, metric).value for r in routers_with_costs.routers}
        assert gap.simple == max("tfidf", "length", key=of.get)
        assert gap.of_simple.value == of[gap.simple]
        assert gap.of_probe.value == of["probe"]
        assert gap.of_oracle.value > of["probe"]
        gained = (of["probe"] - of[gap.simple]) / (gap.of_oracle.value - of[gap.simple])
        assert gap.share.value == pytest.approx(gained)
        assert gap.share.low <= gap.share.value <= gap.share.high
        assert gap.reason is None


def test_without_tokens_strong_calls_are_what_costs(evaluation):
    assert evaluation.cost_basis == "strong calls"
    assert evaluation.costs is None
    for result in evaluation.routers:
        assert result.cost is None
        assert result.saving.value == pytest.approx(1 - result.qnc.value)
        # The strong model is better here: its success is all of the gap.
        assert result.curve.quality_at(result.qnc.value) == pytest.approx(evaluation.strong_rate)


def test_a_gap_that_cannot_be_closed_says_why(train, test_set):
    def reasons(routers, **columns):
        found = evaluate_routers(
            train, replace(test_set, **columns), routers, generator(), resamples=20
        )
        assert all(gap.share.value is None for gap in found.gap_closed.values())
        assert found.to_json()["saving_at_equal_quality"]["reason"]
        return {gap.reason for gap in found.gap_closed.values()}

    simple = [length_router()]
    assert reasons(simple) == {"no router named 'probe' took part"}
    assert reasons(simple, strong=np.empty(0)) == {"no test query has outcomes of both models"}
    assert reasons(simple, strong=np.zeros(len(test_set))) == {
        "the weak model alone does as well as the strong one"
    }
    probe = replace(length_router(), name="probe", sees="prefill")
    assert reasons([probe]) == {"no router that sees the query alone took part"}


def test_an_overhead_makes_a_router_dearer_and_no_better(train, counted_test_set):
    def measured(overhead):
        return evaluate_routers(
            train,
            counted_test_set,
            [length_router()],
            generator(),
            resamples=20,
            overheads={"length": overhead},
        ).routers[0]

    free, dear = measured(0.0), measured(0.0005)
    assert dear.cost.equal_quality.value == pytest.approx(free.cost.equal_quality.value + 0.5)
    assert dear.saving.value < free.saving.value
    assert dear.auroc == free.auroc
    assert dear.apgr == free.apgr


def test_prices_are_taken_as_given(train, counted_test_set):
    prices = Prices(weak=Price(input=1, output=0), strong=Price(input=0, output=20))
    found = evaluate_routers(
        train, counted_test_set, [length_router()], generator(), resamples=20, prices=prices
    )
    assert found.costs.always_weak.value == pytest.approx(1.0)
    assert found.costs.always_strong.value == pytest.approx(4.0)
    assert found.to_json()["costs"]["price_ratio"] is None


@pytest.mark.parametrize(
    ("overheads", "message"),
    [
        ({"llm": 0.1}, "overhead of 'llm', but the routers are"),
        ({"length": -1}, "is -1; wanted USD"),
    ],
)
def test_overheads_of_nobody_or_below_nothing_are_refused(train, test_set, overheads, message):
    with pytest.raises(InputError, match=message):
        evaluate_routers(train, test_set, [length_router()], generator(), overheads=overheads)


def test_values_of_an_attribute_are_slices_where_enough_queries_have_them(train, test_set):
    data = by_field(test_set)
    found = evaluate_routers(train, data, [length_router()], generator(), resamples=20)
    assert [part.name for part in found.attribute_slices] == ["field=city", "field=country"]
    city = found.attribute_slices[0]
    rows = np.arange(1, len(data), 2)
    scores = found.fitted["length"].score(data)
    assert city.n == len(rows)
    assert city.base_rate == pytest.approx(data.weak[rows].mean())
    assert city.auroc["length"].value == pytest.approx(auroc(scores[rows], data.weak[rows]))
    assert {"field=city", "field=country"} <= set(found.to_json()["slices"])


def test_a_rare_value_is_no_slice(routers_with_costs):
    # Of 150 queries, 8 each have the first two values.
    assert [part.name for part in routers_with_costs.attribute_slices] == ["field=rare"]


def test_within_an_attribute_only_pairs_of_one_value_are_compared(train, test_set):
    data = by_field(test_set)
    found = evaluate_routers(train, data, [length_router()], generator(), resamples=20)
    scores, weak = found.fitted["length"].score(data), data.weak
    beaten = [
        (scores[i] > scores[j]) + (scores[i] == scores[j]) / 2
        for i in np.flatnonzero(weak == 1)
        for j in np.flatnonzero(weak == 0)
        if i % 2 == j % 2
    ]
    within = found.routers[0].auroc_within
    assert within["field"].value == pytest.approx(np.mean(beaten))
    # Every query has a rank of its own: nothing to compare.
    assert within["rank"].value is None
    assert "domain" not in within


def test_several_domains_are_an_attribute(train, test_set):
    domain = tuple("ab"[i % 2] for i in range(len(test_set)))
    found = evaluate_routers(
        train, replace(test_set, domain=domain), [length_router()], generator(), resamples=20
    )
    assert set(found.routers[0].auroc_within) == {"domain"}
    assert [part.name for part in found.attribute_slices] == ["domain=a", "domain=b"]


def test_a_weight_is_that_many_test_queries(train, counted_test_set):
    weights = np.where(np.arange(len(counted_test_set)) % 3, 1.0, 2.0)
    rows = np.repeat(np.arange(len(weights)), weights.astype(int))
    many = counted_test_set.take(rows)
    many = replace(many, ids=tuple(f"{name}-{row}" for row, name in enumerate(many.ids)))
    routers = [length_router(), make_router("tfidf")]
    weighted, repeated = (
        evaluate_routers(train, data, routers, generator(), resamples=20)
        for data in (replace(counted_test_set, weights=weights), many)
    )
    assert weighted.base_rate == pytest.approx(repeated.base_rate)
    assert weighted.strong_rate == pytest.approx(repeated.strong_rate)
    for one, other in zip(weighted.routers, repeated.routers, strict=True):
        for metric in ("auroc", "auprc", "aurc", "apgr", "aiq", "audc", "regret", "ece", "brier"):
            found, expected = getattr(one, metric), getattr(other, metric)
            assert found.value == pytest.approx(expected.value)
            assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_queries_of_no_weight_are_left_out(train, test_set):
    weights = np.where(np.arange(len(test_set)) < 10, 0.0, 1.0)
    found = evaluate_routers(
        train, replace(test_set, weights=weights), [length_router()], generator(), resamples=20
    )
    assert (found.test_size, found.unlabelled) == (140, 10)


def test_the_parts_of_the_brier_score_add_up(evaluation):
    for result in evaluation.routers:
        assert result.brier_parts.brier == pytest.approx(result.brier.value)


def test_the_json_holds_every_metric_of_every_router(routers_with_costs):
    found = json.loads(json.dumps(routers_with_costs.to_json(), allow_nan=False))
    names = {"probe", "tfidf", "length", "random"}
    leaf = {"value", "low", "high", "n"}
    for metric in (
        "auprc", "cpt95", "aiq", "audc", "qnc", "aurc", "log_loss", "regret", "regret_area",
    ):  # fmt: skip
        assert set(found[metric]) == names
        assert set(found[metric]["probe"]) == leaf
    assert set(found["pgr"]["probe"]) == {"0.1", "0.2", "0.3", "0.5", "0.7"}
    assert set(found["brier_parts"]["probe"]) >= {"reliability", "resolution", "uncertainty"}
    assert set(found["auroc_within"]["probe"]) == {"field"}
    assert set(found["cost"]["probe"]) == {"equal_quality", "near_quality"}
    assert set(found["costs"]["always_strong"]) == leaf
    assert found["costs"]["price_ratio"] == pytest.approx(125)
    assert found["saving_at_equal_quality"]["basis"] == "tokens"
    assert set(found["saving_at_equal_quality"]["by_router"]) == names
    assert set(found["gap_closed"]) == {"saving", "apgr"}
    assert len(found["risk_coverage"]["probe"]["risk"]) == 100
    assert len(found["curves"]["probe"]["usd_per_1k"]) == 101
    assert set(found["differences"]["tfidf"]) == {
        "against", "auroc", "auprc", "aurc", "apgr", "saving",
    }  # fmt: skip
    assert "shuffled_auroc" in found["controls"]


def test_differences_are_of_the_two_values(routers_with_costs):
    probe = routers_with_costs.router("probe")
    for row in routers_with_costs.differences:
        other = routers_with_costs.router(row.against)
        for metric in ("auroc", "auprc", "aurc", "apgr", "saving"):
            difference = getattr(probe, metric).value - getattr(other, metric).value
            found = getattr(row, metric)
            assert found.value == pytest.approx(difference)
            assert found.low <= found.value <= found.high


def test_every_public_name_is_listed_once():
    rooms = {"domains"}
    public = {name for name in vars(foretell.evaluation) if not name.startswith("_")} - rooms
    assert sorted(public) == sorted(foretell.evaluation.__all__)
