from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretell.errors import TrainingDataError
from foretell.flywheel import Advantage
from foretell.flywheel._advantage import (
    advantage,
    labels_to_settle,
    look_level,
    next_look_at,
    paired,
)
from foretell.records import RoutingData

NAMES = ("embedding", "keyword")


def ahead(differences, *, level, rng, weights=None, groups=None, resamples=500):
    n = len(differences)
    return paired(
        np.asarray(differences),
        np.ones(n) if weights is None else weights,
        groups or [str(i) for i in range(n)],
        names=NAMES,
        level=level,
        rng=rng,
        resamples=resamples,
    )


def found(value: float, error: float | None, *, n: int = 100, level: float = 0.025) -> Advantage:
    low = None if error is None else value - 2 * error
    return Advantage(
        step="embedding", over="keyword", value=value, level=level, n=n, low=low, error=error
    )


def test_the_bounds_are_those_of_a_t_test_where_differences_are_normal():
    from scipy.stats import t

    differences = np.random.default_rng(1).normal(0.02, 0.1, 200)
    seen = ahead(differences, level=0.025, rng=np.random.default_rng(0), resamples=20_000)
    error = differences.std(ddof=1) / math.sqrt(200)
    assert seen.value == pytest.approx(differences.mean())
    assert seen.error == pytest.approx(error, rel=1e-9)
    reach = t.isf(0.025, 199) * error
    assert seen.low == pytest.approx(differences.mean() - reach, abs=0.1 * reach)
    assert seen.high == pytest.approx(differences.mean() + reach, abs=0.1 * reach)


def test_copies_of_a_query_in_one_group_prove_nothing_more():
    differences = np.random.default_rng(1).normal(0.02, 0.1, 60)
    once = ahead(differences, level=0.01, rng=np.random.default_rng(0))
    copies = ahead(
        np.repeat(differences, 5),
        groups=[str(i // 5) for i in range(300)],
        level=0.01,
        rng=np.random.default_rng(0),
    )
    # Groups are sorted by name, so the draws differ though the groups do not.
    assert copies.value == pytest.approx(once.value)
    assert copies.error == pytest.approx(once.error)
    assert copies.low == pytest.approx(once.low, abs=0.3 * once.error)


def test_a_weight_counts_as_that_many_rows_of_its_group():
    differences, weights = np.array([0.1, -0.2, 0.3, 0.05]), np.array([1.0, 3.0, 2.0, 1.0])
    weighed = ahead(differences, weights=weights, level=0.1, rng=np.random.default_rng(0))
    repeated = ahead(
        np.repeat(differences, weights.astype(int)),
        groups=list("abbbccd"),
        level=0.1,
        rng=np.random.default_rng(0),
    )
    assert (weighed.value, weighed.low) == pytest.approx((repeated.value, repeated.low))


@pytest.mark.parametrize(
    ("differences", "groups"),
    [([0.1, 0.3], ["a", "a"]), ([0.1, 0.1, 0.1], ["a", "b", "c"])],
    ids=["one group", "no spread"],
)
def test_without_spread_between_groups_there_are_no_bounds(differences, groups):
    seen = ahead(differences, groups=groups, level=0.1, rng=np.random.default_rng(0))
    assert seen.value == pytest.approx(np.mean(differences))
    assert (seen.low, seen.high, seen.error) == (None, None, None)
    assert not seen.ahead


def test_looking_again_and_again_at_equals_climbs_no_more_often_than_the_error_allows():
    """200 pairs of equals, each looked at four times, clustered in twos, in a lopsided score."""
    error, trials, climbed = 0.05, 200, 0
    rng = np.random.default_rng(0)
    for _ in range(trials):
        clusters = np.empty(0)
        labels = 50
        for look in range(1, 5):
            new = labels // 2 - len(clusters)
            clusters = np.append(clusters, 0.05 * (rng.gamma(4.0, size=new) - 4.0))
            differences = np.repeat(clusters, 2)
            groups = [str(i // 2) for i in range(len(differences))]
            level = look_level(error, look)
            if ahead(differences, groups=groups, level=level, rng=rng).ahead:
                climbed += 1
                break
            labels = next_look_at(labels)
    assert climbed / trials <= error + 2 * math.sqrt(error * (1 - error) / trials)


@given(st.floats(1e-6, 1), st.integers(1, 2000))
def test_all_looks_together_spend_no_more_than_the_error(error, looks):
    spent = math.fsum(look_level(error, look) for look in range(1, looks + 1))
    assert spent == pytest.approx(error * looks / (looks + 1))


def test_labels_to_settle_by_hand():
    # Look 1 spent 0.05 / 2. Look 2, on 150 labels, spends 0.05 / 6, of which the normal's quantile
    # is 2.394; the error falls to 0.01 sqrt(100 / 150) = 0.00816, and 2.394 times that is 0.0195.
    assert labels_to_settle(found(0.0196, 0.01), look=1) == 50
    # Look 3, on 225 labels: 0.05 / 12 has 2.638, and 2.638 x 0.00667 = 0.0176.
    assert labels_to_settle(found(0.0194, 0.01), look=1) == 125


@given(st.floats(0.003, 0.2), st.floats(1.0, 3.0), st.integers(1, 6))
def test_a_larger_lead_never_takes_more_labels(value, times, look):
    less = labels_to_settle(found(value, 0.05), look=look)
    more = labels_to_settle(found(value * times, 0.05), look=look)
    assert less is None or (more is not None and more <= less)


def test_a_difference_that_is_always_the_same_is_not_worth_a_step_when_it_is_tiny():
    differences = 0.001 + 1e-6 * np.random.default_rng(0).normal(size=100)
    seen = ahead(differences, level=0.01, rng=np.random.default_rng(0))
    assert seen.low > 0
    assert not seen.ahead
    assert labels_to_settle(seen, look=1) is None
    assert "is not ahead of" in seen.words


@pytest.mark.parametrize(("value", "error"), [(0.0, 0.01), (-0.1, 0.01), (0.1, None)])
def test_no_number_of_labels_settles_what_is_not_ahead(value, error):
    assert labels_to_settle(found(value, error), look=1) is None


def test_the_words_say_who_is_ahead_by_how_much_and_on_what():
    seen = Advantage(
        step="embedding",
        over="keyword",
        value=0.0213,
        low=-0.004,
        high=0.0462,
        error=0.01,
        level=0.025,
        n=263,
    )
    assert seen.words == "embedding is ahead of keyword by 0.021 [-0.004, 0.046] on 263 labels"
    behind = found(-0.01, None)
    assert behind.words == "embedding is not ahead of keyword (-0.010) on 100 labels"


def labelled(n: int = 100, *, groups: int = 50, successes: int = 50) -> RoutingData:
    return RoutingData(
        domain=("toy",) * n,
        ids=tuple(f"q{i}" for i in range(n)),
        texts=("?",) * n,
        groups=tuple(f"g{i % groups}" for i in range(n)),
        lengths=np.arange(n),
        attributes=({},) * n,
        weak=(np.arange(n) < successes).astype(np.float64),
        weights=np.ones(n),
    )


def test_nobody_is_scored_by_a_fit_that_saw_its_group_and_both_are_given_the_same_folds():
    seen: dict[str, list[tuple[str, ...]]] = {"embedding": [], "keyword": []}

    def watching(name: str, chance: float):
        def foretelling(train: RoutingData, held: RoutingData, _: np.random.Generator):
            assert not set(train.groups) & set(held.groups)
            assert len(train) + len(held) == 100
            seen[name].append(held.ids)
            return np.full(len(held), chance)

        return foretelling

    result = advantage(
        labelled(),
        ("embedding", watching("embedding", 0.5)),
        ("keyword", watching("keyword", 0.1)),
        level=0.05,
        seed=3,
    )
    assert seen["embedding"] == seen["keyword"]
    assert sorted(id_ for fold in seen["keyword"] for id_ in fold) == sorted(labelled().ids)
    # Half of 0.5 always: 0.25; of 0.1 half of 0.81 and half of 0.01: 0.41.
    assert result.value == pytest.approx(0.41 - 0.25)
    assert (result.step, result.over, result.level, result.n) == ("embedding", "keyword", 0.05, 100)


@pytest.mark.parametrize(
    "data",
    [labelled(groups=3), labelled(successes=4), labelled(successes=97)],
    ids=["few groups", "few successes", "few failures"],
)
def test_too_little_for_folds_is_said(data):
    def even(_: RoutingData, held: RoutingData, __: np.random.Generator):
        return np.full(len(held), 0.5)

    with pytest.raises(TrainingDataError, match="label more queries"):
        advantage(data, ("length", even), ("start", even), level=0.05, seed=0)
