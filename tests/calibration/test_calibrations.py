"""What every kind of calibration promises, and that cards read each of them back."""

import json
import math
import timeit
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

import foretell.calibration
from foretell.calibration import (
    Beta,
    FittedCalibration,
    FittedPlatt,
    Isotonic,
    Platt,
    Temperature,
    fit_calibration,
)
from foretell.errors import InputError, TrainingDataError

METHODS = [Beta(), Isotonic(), Platt(), Temperature()]
KINDS = ["beta", "isotonic", "platt", "temperature"]
every_method = pytest.mark.parametrize("method", METHODS, ids=KINDS)

unhurried = settings(deadline=None, max_examples=15)


def scored(seed=0, n=60):
    """Log-odds that are too sure of themselves, and outcomes."""
    generator = np.random.default_rng(seed)
    truth = generator.normal(size=n) * 1.5
    outcomes = (generator.random(n) < 1 / (1 + np.exp(-truth))).astype(float)
    return 2 * truth + 1, outcomes


@every_method
@unhurried
@given(seed=st.integers(0, 50), scores=st.lists(st.floats(-60, 60), min_size=2, max_size=20))
def test_a_higher_score_is_never_less_likely_and_every_chance_is_one(method, seed, scores):
    chances = method.fit(*scored(seed)).p(np.sort(scores))
    assert (np.diff(chances) >= -1e-12).all()
    assert ((chances >= 0) & (chances <= 1)).all()


@every_method
@unhurried
@given(seed=st.integers(0, 20), scores=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20))
def test_one_score_and_many_give_the_same_chance(method, seed, scores):
    fitted = method.fit(*scored(seed))
    one_by_one = [fitted.p(score) for score in scores]
    assert all(type(chance) is float for chance in one_by_one)
    assert one_by_one == pytest.approx(fitted.p(np.array(scores)), abs=1e-12)


@every_method
def test_chances_keep_the_shape_of_the_scores(method):
    fitted = method.fit(*scored())
    assert fitted.p(np.zeros((2, 3))).shape == (2, 3)


@every_method
def test_a_weight_is_a_number_of_repetitions(method):
    scores, outcomes = scored()
    times = np.random.default_rng(1).integers(0, 4, len(scores))
    weighted = method.fit(scores, outcomes, times)
    repeated = method.fit(np.repeat(scores, times), np.repeat(outcomes, times))
    assert weighted.p(scores) == pytest.approx(repeated.p(scores), abs=1e-4)


@every_method
def test_a_rate_of_three_in_four_is_three_successes_and_a_failure(method):
    scores, rates = np.array([-2.0, -1.0, 0.5, 2.0]), np.array([0.25, 0.0, 0.75, 0.5])
    counted = np.concatenate([np.repeat([1.0, 0.0], [4 * r, 4 - 4 * r]) for r in rates])
    by_rate = method.fit(scores, rates, np.full(4, 4.0))
    assert by_rate.p(scores) == pytest.approx(
        method.fit(np.repeat(scores, 4), counted).p(scores), abs=1e-4
    )


@every_method
def test_separated_outcomes_and_a_single_class_stay_short_of_certainty(method):
    separated = method.fit([-2.0, -1.0, 1.0, 2.0], [0, 0, 1, 1])
    assert 0 < separated.p(-2.0) < 0.5 < separated.p(2.0) < 1
    assert 0.5 < method.fit([1.0, 2.0], [1, 1]).p(2.0) < 1
    assert 0 < method.fit([-2.0, -1.0], [0, 0]).p(-2.0) < 0.5


@every_method
def test_scores_that_rank_backwards_end_flat(method):
    scores, outcomes = scored(n=300)
    fitted = method.fit(-scores, outcomes)
    low, high = np.quantile(-scores, [0.1, 0.9])
    assert fitted.p(float(high)) - fitted.p(float(low)) == pytest.approx(0, abs=0.02)


@every_method
def test_scores_far_on_one_side_leave_the_chances_between_the_outcomes(method):
    # Log-odds of 300 and more: log q does not vary at all.
    fitted = method.fit([300.0, 350.0, 400.0, 450.0], [0, 1, 0, 1])
    assert math.isfinite(fitted.p(-5.0))
    assert 0 <= fitted.p(-5.0) <= fitted.p(300.0) <= fitted.p(450.0) <= 1


@every_method
def test_nothing_to_calibrate_on_is_refused(method):
    with pytest.raises(TrainingDataError, match="no outcomes to calibrate on"):
        method.fit([], [])
    with pytest.raises(TrainingDataError, match="no outcomes to calibrate on"):
        method.fit([1.0], [1.0], [0.0])


@pytest.mark.parametrize("kind", ["beta", "platt", "temperature"])
def test_one_chance_costs_less_than_ten_microseconds(kind):
    fitted = fit_calibration(kind, *scored())
    best = min(timeit.repeat(lambda: fitted.p(0.3), number=1000, repeat=10)) / 1000
    assert best < 10e-6


@dataclass(frozen=True, kw_only=True)
class Card:
    """Read as strictly as probe cards are."""

    __pydantic_config__: ClassVar = {"extra": "forbid", "strict": True, "allow_inf_nan": False}
    calibration: FittedCalibration


@pytest.mark.parametrize("kind", KINDS)
def test_a_card_reads_back_what_it_wrote(kind):
    fitted = fit_calibration(kind, *scored())
    assert fitted.kind == kind
    card, cards = Card(calibration=fitted), TypeAdapter(Card)
    assert cards.validate_json(cards.dump_json(card)) == card
    assert cards.validate_python(card) == card


def test_a_card_from_before_there_were_kinds_holds_platt_scaling():
    old = json.dumps({"calibration": {"slope": 2.0, "intercept": -1.0}})
    wanted = Card(calibration=FittedPlatt(slope=2.0, intercept=-1.0))
    assert TypeAdapter(Card).validate_json(old) == wanted


@pytest.mark.parametrize(
    "calibration",
    [
        {"kind": "spline", "slope": 1.0},
        {"kind": "temperature", "slope": 1.0, "intercept": 0.0},
        {"kind": "beta", "a": 1.0, "b": 1.0},
        {"slope": 1.0},
        3,
    ],
)
def test_a_card_with_a_calibration_of_no_kind_is_refused(calibration):
    with pytest.raises(ValidationError, match="calibration"):
        TypeAdapter(Card).validate_python({"calibration": calibration})


@pytest.mark.parametrize(
    ("kind", "change", "complaint"),
    [
        ("beta", {"a": -0.1}, "a = -0.1"),
        ("beta", {"c": math.nan}, "wanted finite numbers"),
        ("temperature", {"slope": -1.0}, "finite slope of 0 or more"),
        ("temperature", {"slope": math.inf}, "finite slope of 0 or more"),
        ("isotonic", {"scores": ()}, "0 knots"),
        ("isotonic", {"scores": (1.0,), "chances": (0.2, 0.3)}, "1 knots and 2 chances"),
        ("isotonic", {"scores": (1.0, 1.0), "chances": (0.2, 0.3)}, "out of order"),
        ("isotonic", {"scores": (1.0, 2.0), "chances": (0.3, 0.2)}, "out of order"),
        ("isotonic", {"scores": (1.0, math.inf), "chances": (0.2, 0.3)}, "out of order"),
        ("isotonic", {"scores": (1.0, 2.0), "chances": (0.2, 1.0)}, "strictly between 0 and 1"),
    ],
)
def test_a_curve_that_falls_or_is_not_finite_cannot_be_made(kind, change, complaint):
    fitted = fit_calibration(kind, *scored())
    with pytest.raises(InputError, match=complaint):
        replace(fitted, **change)


def test_every_public_name_is_listed_once():
    public = {name for name in vars(foretell.calibration) if not name.startswith("_")}
    assert sorted(public) == sorted(foretell.calibration.__all__)
