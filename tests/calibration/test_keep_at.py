"""Thresholds: laws, values by hand, and how often a guarantee is broken."""

import json
import math
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretell.calibration import (
    KEEP_NOTHING,
    keep_at_for_quality,
    keep_at_for_strong_share,
    stop_below,
)
from foretell.errors import InputError

chances = st.lists(st.sampled_from([0.0, 0.2, 0.5, 0.51, 0.9, 1.0]), min_size=1, max_size=30)
labelled = st.lists(
    st.tuples(st.floats(0, 1), st.booleans(), st.booleans()), min_size=1, max_size=60
)
qualities = st.floats(0.01, 1)


def drawn(generator, n, strong_accuracy=0.8):
    """Calibrated chances, uniform, and a strong model that does not care about them."""
    p = generator.random(n)
    weak = (generator.random(n) < p).astype(float)
    strong = (generator.random(n) < strong_accuracy).astype(float)
    return p, weak, strong


@given(chances, st.floats(0, 1))
def test_a_share_is_never_exceeded_and_no_threshold_comes_closer(p, share):
    p = np.array(p)
    keep_at = keep_at_for_strong_share(p, share)
    escalated = (p < keep_at).mean()
    assert escalated <= share + 1e-9
    closer = [(p < t).mean() for t in [*p, KEEP_NOTHING] if (p < t).mean() <= share + 1e-9]
    assert escalated == max([0.0, *closer])


@given(chances, st.floats(0, 1), st.floats(0, 1))
def test_a_larger_share_never_lowers_the_threshold(p, one, other):
    low, high = sorted([one, other])
    assert keep_at_for_strong_share(p, low) <= keep_at_for_strong_share(p, high)


def test_both_ends_of_the_share_keep_everything_and_nothing():
    assert keep_at_for_strong_share([0.3, 1.0], 0) == 0
    assert keep_at_for_strong_share([0.3, 1.0], 1) == KEEP_NOTHING > 1
    assert json.loads(json.dumps(KEEP_NOTHING)) == KEEP_NOTHING


def test_both_ends_of_a_range_without_bounds_are_numbers_in_json():
    for share, wanted in ((0, -sys.float_info.max), (1, sys.float_info.max)):
        found = keep_at_for_strong_share([-40.0, 7.0], share, score_range=(-math.inf, math.inf))
        assert found == json.loads(json.dumps(found)) == wanted
    assert keep_at_for_strong_share([-0.5, 0.2], 0, score_range=(-1, 1)) == -1


def test_three_tenths_of_ten_queries_are_three():
    assert keep_at_for_strong_share(np.arange(10) / 10, 0.3) == 0.3


@given(labelled, qualities, qualities, st.sampled_from([None, 0.5, 0.9]))
def test_raising_quality_never_lowers_the_threshold(rows, one, other, confidence):
    p, weak, strong = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    low, high = sorted([one, other])
    assert (
        keep_at_for_quality(p, weak, strong, low, confidence).keep_at
        <= keep_at_for_quality(p, weak, strong, high, confidence).keep_at
    )


@given(st.integers(0, 20), st.floats(0.01, 0.99), st.floats(0.01, 0.99))
def test_raising_confidence_never_lowers_the_threshold(seed, one, other):
    data = drawn(np.random.default_rng(seed), 300)
    low, high = sorted([one, other])
    assert (
        keep_at_for_quality(*data, 0.9, low).keep_at
        <= keep_at_for_quality(*data, 0.9, high).keep_at
    )


@given(labelled, qualities)
def test_without_confidence_the_goal_holds_on_the_queries_at_hand(rows, quality):
    p, weak, strong = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    found = keep_at_for_quality(p, weak, strong, quality)
    kept = p >= found.keep_at
    assert found.strong_share == (~kept).mean()
    assert found.routed_accuracy == pytest.approx(np.where(kept, weak, strong).mean())
    assert found.strong_accuracy == pytest.approx(strong.mean())
    assert found.routed_accuracy >= quality * found.strong_accuracy - 1e-6
    assert (found.guaranteed, found.labels_needed, found.n) == (False, None, len(p))


def test_the_least_escalation_by_hand():
    # Strong is always right. Keeping 0.9 and 0.8 loses nothing, keeping 0.4 loses one in four.
    p, weak, strong = [0.9, 0.8, 0.4, 0.1], [1, 1, 0, 1], [1, 1, 1, 1]
    assert keep_at_for_quality(p, weak, strong, 1.0).keep_at == 0.8
    assert keep_at_for_quality(p, weak, strong, 0.75).keep_at == 0.1
    assert keep_at_for_quality(p, [0] * 4, strong, 1.0).keep_at == KEEP_NOTHING


def test_a_guarantee_costs_little_when_labels_are_many():
    found = keep_at_for_quality(*drawn(np.random.default_rng(1), 20_000), 0.95, 0.9)
    assert found.guaranteed
    assert 0.45 < found.keep_at < 0.52
    assert found.reason == "holds for new queries with confidence 0.9"


def test_too_few_labels_escalate_everything_and_say_how_many_would_do():
    data = drawn(np.random.default_rng(2), 40)
    found = keep_at_for_quality(*data, 0.95, 0.9)
    assert (found.keep_at, found.strong_share, found.guaranteed) == (KEEP_NOTHING, 1.0, False)
    assert found.routed_accuracy == found.strong_accuracy
    assert found.labels_needed is not None
    assert 40 < found.labels_needed < 1000
    assert f"about {found.labels_needed} would" in found.reason
    more = drawn(np.random.default_rng(3), 2 * found.labels_needed)
    assert keep_at_for_quality(*more, 0.95, 0.9).guaranteed


def test_no_number_of_labels_helps_a_weak_model_that_is_always_wrong():
    found = keep_at_for_quality([0.5] * 50, [0] * 50, [1] * 50, 0.95, 0.9)
    assert found.keep_at == KEEP_NOTHING
    assert found.labels_needed is None
    assert "would not help" in found.reason


@pytest.mark.parametrize(
    ("quality", "confidence", "complaint"),
    [
        (0.0, None, "quality must be above 0"),
        (1.1, None, "quality must be above 0 and at most 1, got 1.1"),
        (0.9, 1.0, "confidence must be above 0 and below 1"),
    ],
)
def test_goals_out_of_range_are_named(quality, confidence, complaint):
    with pytest.raises(InputError, match=complaint):
        keep_at_for_quality([0.5], [1], [1], quality, confidence)


def test_no_queries_and_a_share_out_of_range_are_refused():
    with pytest.raises(InputError, match="no queries"):
        keep_at_for_strong_share([], 0.5)
    with pytest.raises(InputError, match="strong share must be between 0 and 1"):
        keep_at_for_strong_share([0.5], 1.5)
    with pytest.raises(InputError, match="differ in length"):
        keep_at_for_quality([0.5], [1, 1], [1], 0.9)


@given(
    st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60),
    st.floats(0, 1),
)
def test_an_early_bar_stops_no_more_kept_queries_than_allowed(rows, loss):
    p, kept = np.array([r[0] for r in rows]), np.array([r[1] for r in rows])
    bar = stop_below(p, kept, loss)
    assert ((p < bar) & kept).sum() <= loss * kept.sum() + 1e-6
    if loss < 1 and kept.any():
        # The next higher chance as the bar would stop too many.
        higher = np.nextafter(bar, 2)
        assert ((p < higher) & kept).sum() > loss * kept.sum() - 1e-6


def test_an_early_bar_stops_nothing_when_nothing_is_kept():
    assert stop_below([0.2, 0.4], [False, False], 0.5) == 0
