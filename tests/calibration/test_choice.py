"""Which calibration is chosen, how honest its chances are, and calibration by domain."""

import math

import numpy as np
import pytest
from pydantic import TypeAdapter

from foretell.calibration import (
    FittedPerDomain,
    FittedPlatt,
    Temperature,
    calibrate_by_domain,
    choose_calibration,
    fit_calibration,
    log_loss,
)
from foretell.errors import InputError, TrainingDataError


def drawn(truth, n, seed=0):
    """Standard normal scores times two, and outcomes whose chance is ``truth`` of the score."""
    generator = np.random.default_rng(seed)
    scores = 2 * generator.normal(size=n)
    return scores, (generator.random(n) < truth(scores)).astype(float)


def logistic(scores):
    return 1 / (1 + np.exp(-scores))


def one_step(scores):
    """No logistic curve is near it: three in ten, then a jump in the middle of the failures."""
    return np.where(scores > 2.5, 0.95, 0.3)


def test_the_simplest_kind_wins_where_it_is_true():
    choice = choose_calibration(*drawn(lambda s: logistic(0.5 * s), 600))
    assert choice.kind == choice.fitted.kind == "temperature"
    assert list(choice.log_loss) == ["temperature", "platt", "beta", "isotonic"]


def test_a_shift_calls_for_platt():
    assert choose_calibration(*drawn(lambda s: logistic(0.5 * s - 1.5), 600)).kind == "platt"


def test_a_bend_calls_for_beta():
    # Steep below 0 and flat above: a = 3, b = 0.
    def bent(scores):
        return logistic(1.5 - 3 * np.logaddexp(0, -scores))

    assert choose_calibration(*drawn(bent, 2000)).kind == "beta"


def test_a_step_calls_for_isotonic_given_labels_enough():
    many = choose_calibration(*drawn(one_step, 2000))
    assert many.kind == "isotonic"
    few = choose_calibration(*drawn(one_step, 199))
    assert "isotonic" not in few.log_loss
    assert "isotonic" in choose_calibration(*drawn(one_step, 200)).log_loss


def test_the_kind_chosen_is_within_a_standard_error_of_the_best():
    choice = choose_calibration(*drawn(lambda s: logistic(0.5 * s + 0.1), 400))
    assert choice.log_loss[choice.kind] - min(choice.log_loss.values()) < 0.02


def test_the_losses_are_of_held_out_rows():
    # Each row alone in a fold: its calibration has seen all other rows and not this one.
    scores, outcomes = drawn(logistic, 12)
    left_out = [
        Temperature().fit(np.delete(scores, i), np.delete(outcomes, i)).p(float(scores[i]))
        for i in range(12)
    ]
    choice = choose_calibration(scores, outcomes, folds=12, kinds=["temperature"])
    assert choice.p_held_out == pytest.approx(left_out)
    assert choice.log_loss["temperature"] == pytest.approx(log_loss(left_out, outcomes))


def test_held_out_chances_do_not_know_their_group():
    # Outcomes are one coin per group and the scores name the group: in-sample steps would be sure.
    generator = np.random.default_rng(0)
    group = np.repeat(np.arange(60), 10)
    outcomes = generator.integers(0, 2, 60).astype(float)[group]
    scores = generator.normal(size=60)[group] + 1e-3 * generator.normal(size=600)
    apart = choose_calibration(scores, outcomes, groups=group, kinds=["isotonic"])
    mixed = choose_calibration(scores, outcomes, kinds=["isotonic"])
    assert log_loss(mixed.p_held_out, outcomes) < log_loss(apart.p_held_out, outcomes)
    assert log_loss(apart.p_held_out, outcomes) > 0.98 * math.log(2)


def test_the_kind_is_chosen_without_the_rows_it_is_judged_on():
    # Pure noise: choosing the kind on the judged rows too would show a loss below the base rate's.
    losses = []
    for seed in range(5):
        generator = np.random.default_rng(seed)
        scores, outcomes = generator.normal(size=250), generator.integers(0, 2, 250).astype(float)
        losses.append(log_loss(choose_calibration(scores, outcomes).p_held_out, outcomes))
    assert np.mean(losses) > math.log(2) - 0.005


def test_the_same_seed_gives_the_same_choice_and_group_names_do_not_matter():
    scores, outcomes = drawn(logistic, 240)
    group = np.arange(240) // 4
    one = choose_calibration(scores, outcomes, groups=group, seed=3)
    other = choose_calibration(scores, outcomes, groups=[f"g{i:03}" for i in group], seed=3)
    assert one.fitted == other.fitted
    assert (one.p_held_out == other.p_held_out).all()


def test_weights_count_in_the_choice():
    shifted, outcomes = drawn(lambda s: logistic(0.5 * s - 1.5), 600)
    centred, other = drawn(lambda s: logistic(0.5 * s), 600, seed=1)
    columns = np.concatenate([shifted, centred]), np.concatenate([outcomes, other])
    assert choose_calibration(*columns, np.repeat([1.0, 0.0], 600)).kind == "platt"
    assert choose_calibration(*columns, np.repeat([0.0, 1.0], 600)).kind == "temperature"


@pytest.mark.parametrize(
    ("arguments", "error", "complaint"),
    [
        ({"folds": 2}, InputError, "folds must be at least 3"),
        ({"groups": [0, 1] * 25}, TrainingDataError, "2 groups cannot be held out"),
        ({"groups": [0, 1]}, InputError, "2 groups for 50 queries"),
        ({"kinds": []}, InputError, "cannot choose a calibration from"),
        ({"kinds": ["spline"]}, InputError, "wanted some of temperature, platt"),
        ({"kinds": ["isotonic"]}, TrainingDataError, "50 outcomes are too few for isotonic"),
    ],
)
def test_what_cannot_be_chosen_is_refused(arguments, error, complaint):
    with pytest.raises(error, match=complaint):
        choose_calibration(*drawn(logistic, 50), **arguments)


def two_domains():
    """One domain is shifted up, one down, and a third has a handful of labels."""
    up, up_outcomes = drawn(lambda s: logistic(s + 2), 300)
    down, down_outcomes = drawn(lambda s: logistic(s - 2), 300, seed=1)
    few, few_outcomes = drawn(logistic, 20, seed=2)
    scores = np.concatenate([up, down, few])
    outcomes = np.concatenate([up_outcomes, down_outcomes, few_outcomes])
    return scores, outcomes, ["up"] * 300 + ["down"] * 300 + ["few"] * 20


def test_each_domain_with_labels_enough_has_its_own_calibration():
    fitted = calibrate_by_domain(*two_domains())
    assert sorted(fitted.by_domain) == ["down", "up"]
    assert fitted.p(0.0, "up") == pytest.approx(logistic(2), abs=0.06)
    assert fitted.p(0.0, "down") == pytest.approx(logistic(-2), abs=0.06)
    assert fitted.p(0.0, "few") == fitted.p(0.0, "never seen") == fitted.common.p(0.0)


def test_one_domain_for_all_is_no_domain():
    scores, outcomes, _ = two_domains()
    fitted = calibrate_by_domain(scores, outcomes, ["one"] * len(scores))
    assert fitted.by_domain["one"] == fitted.common == choose_calibration(scores, outcomes).fitted


def test_labels_enough_means_outcomes_with_weight_in_groups_enough():
    scores, outcomes, domains = two_domains()
    weights = np.repeat([1.0, 0.0, 1.0], [301, 299, 20])
    assert list(calibrate_by_domain(scores, outcomes, domains, weights).by_domain) == ["up"]
    one_group_up = np.concatenate([np.zeros(300), np.arange(1, 321)])
    grouped = calibrate_by_domain(scores, outcomes, domains, groups=one_group_up)
    assert list(grouped.by_domain) == ["down"]
    low_bar = calibrate_by_domain(
        scores, outcomes, domains, at_least=20, folds=4, seed=1, kinds=["platt"]
    )
    assert sorted(low_bar.by_domain) == ["down", "few", "up"]


def test_rows_and_single_scores_of_domains_agree():
    scores, outcomes, domains = two_domains()
    fitted = calibrate_by_domain(scores, outcomes, domains)
    rows = fitted.p(scores, domains)
    assert rows[::50] == pytest.approx(
        [fitted.p(float(s), d) for s, d in zip(scores[::50], domains[::50], strict=True)]
    )


def test_a_calibration_by_domain_is_read_back_from_json():
    platt, beta = FittedPlatt(slope=1.0, intercept=0.0), fit_calibration("beta", [1, 2], [0, 1])
    fitted = FittedPerDomain(common=platt, by_domain={"geo": beta})
    adapter = TypeAdapter(FittedPerDomain)
    assert adapter.validate_json(adapter.dump_json(fitted)) == fitted


def test_domains_and_scores_must_match():
    fitted = FittedPerDomain(common=FittedPlatt(slope=1.0, intercept=0.0), by_domain={})
    with pytest.raises(InputError, match="2 scores but 1 domains"):
        fitted.p(np.zeros(2), ["geo"])
    with pytest.raises(InputError, match="1 domains for 2 scores"):
        calibrate_by_domain([1.0, 2.0], [0, 1], ["geo"])
