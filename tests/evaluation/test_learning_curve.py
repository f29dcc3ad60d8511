"""Quality by number of labels: nested draws, honest intervals, and when to stop labelling."""

import json
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from foretell.errors import InputError, TrainingDataError
from foretell.evaluation._learning_curve import learning_curve, repeats_of
from foretell.records import ReadPoint
from foretell.routers import ProbeRouter, length_router


@dataclass
class Noted:
    """Scores with the truth plus noise that falls with every label, and notes what it saw."""

    name: str = "noted"
    sees: str = "query"
    refuses_below: int = 0
    truth: np.ndarray = field(default_factory=lambda: np.empty(0))
    noise: object = lambda _labels: 0.0
    seen: list = field(default_factory=list)

    def fit(self, data, rng):
        self.seen.append(data.ids)
        if len(data) < self.refuses_below:
            raise TrainingDataError("too few labels")
        amount = self.noise(len(data))
        return Scored(self.name, self.truth + amount * rng.normal(size=len(self.truth)))


@dataclass
class Scored:
    name: str
    scores: np.ndarray

    def score(self, data):
        assert data.weak.size == data.strong.size == 0
        return self.scores

    p_success = score


def curve(train, test, *routers, seed=0, **more):
    return learning_curve(train, test, routers, np.random.default_rng(seed), **more)


def few(_labels):
    return 3


def test_subsets_are_nested_within_a_repeat_and_differ_between_repeats(train, test_set):
    router = Noted(truth=test_set.weak)
    found = curve(train, test_set, router, sizes=(50, 20, 20, 500), repeats=few)
    assert [len(ids) for ids in router.seen] == [20] * 3 + [50] * 3 + [200]
    assert [point.labels for point in found.router("noted").points] == [20, 50, 200]
    assert [point.repeats for point in found.router("noted").points] == [3, 3, 1]
    for small, larger in zip(router.seen[:3], router.seen[3:6], strict=True):
        assert set(small) < set(larger)
    assert len({frozenset(ids) for ids in router.seen[:3]}) == 3
    assert set(router.seen[-1]) == set(train.ids)


def test_a_router_that_needs_many_labels_says_so_and_one_that_needs_few_too(train, test_set):
    truth = test_set.weak

    def learning(scale):
        return Noted(truth=truth, noise=lambda labels: scale / labels, name=f"scale {scale}")

    found = curve(train, test_set, learning(1), learning(200), sizes=(25, 50, 100), repeats=few)
    quick, slow = found.routers
    assert quick.enough == quick.labels_for_90_percent == 25
    aurocs = [point.auroc.value for point in slow.points]
    assert aurocs == sorted(aurocs)
    # Two normals 1 apart with a spread of 200 / n: 0.54 at 25, 0.64 at 100, 0.76 at 200.
    assert aurocs[0] == pytest.approx(0.54, abs=0.06)
    assert aurocs[-1] == pytest.approx(0.76, abs=0.08)
    assert slow.enough is None
    assert slow.labels_for_90_percent == next(
        p.labels for p in slow.points if p.auroc.value >= 0.9 * aurocs[-1]
    )
    assert slow.labels_for_90_percent_over_chance == 200
    assert all(p.auroc.low <= p.auroc.value <= p.auroc.high for p in slow.points)


def test_refused_fits_are_counted_and_do_not_stop_the_rest(train, test_set):
    router = Noted(truth=test_set.weak, refuses_below=50)
    found = curve(train, test_set, router, sizes=(25, 50), repeats=few).router("noted")
    assert [point.refused for point in found.points] == [3, 0, 0]
    assert found.points[0].auroc.value is None
    assert found.enough == 50


def test_a_router_that_never_fits_has_no_verdict(train, test_set):
    router = Noted(truth=test_set.weak, refuses_below=10**6)
    found = curve(train, test_set, router, sizes=(25,), repeats=few)
    assert found.routers[0].enough is None
    assert found.routers[0].labels_for_90_percent is None
    json.dumps(found.to_json(), allow_nan=False)


def test_a_router_no_better_than_chance_has_nothing_over_chance(train, test_set):
    found = curve(train, test_set, Noted(truth=np.zeros(len(test_set))), sizes=(25,))
    assert found.routers[0].labels_for_90_percent == 25
    assert found.routers[0].labels_for_90_percent_over_chance is None


def test_real_routers_learn_and_the_whole_survives_json(train, test_set):
    told = []
    router = ProbeRouter(read_points=(ReadPoint(2),), kinds=("linear",))
    found = curve(
        train, test_set, router, length_router(), sizes=(60,), repeats=few,
        resamples=200, progress=lambda done, total: told.append((done, total)),
    )  # fmt: skip
    assert told == [(done, 8) for done in range(1, 9)]
    probe = found.router("probe").points
    assert probe[0].auroc.value > 0.6
    assert probe[-1].auroc.value > 0.75
    assert found.router("nobody") is None
    loaded = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert loaded["train_size"] == 200
    assert loaded["routers"]["length"]["points"][0]["labels"] == 60


def test_a_routers_numbers_do_not_depend_on_who_comes_after_it(train, test_set):
    def noisy(name):
        return Noted(truth=test_set.weak, noise=lambda _labels: 1.0, name=name)

    alone = curve(train, test_set, noisy("first"), sizes=(25,))
    joined = curve(train, test_set, noisy("first"), noisy("second"), sizes=(25,))
    assert alone.routers[0] == joined.routers[0]


def test_unlabelled_queries_are_left_out(train, test_set):
    weak = train.weak.copy()
    weak[:50] = np.nan
    found = curve(replace(train, weak=weak), test_set, Noted(truth=test_set.weak), sizes=())
    assert found.train_size == 150


@pytest.mark.parametrize("labels", [1, 25, 100, 800, 10_000])
def test_few_labels_are_tried_more_often(labels):
    assert 8 >= repeats_of(labels) >= repeats_of(labels + 1) >= 1


def test_what_cannot_be_measured_is_refused(train, test_set):
    router = Noted(truth=test_set.weak)
    with pytest.raises(InputError, match="wanted at least one"):
        curve(train, test_set)
    with pytest.raises(InputError, match="each with its own name"):
        curve(train, test_set, router, router)
    with pytest.raises(InputError, match="wanted 1 or more"):
        curve(train, test_set, router, sizes=(0, 25))
    with pytest.raises(InputError, match="none of 200 training queries"):
        curve(replace(train, weak=np.empty(0)), test_set, router)
    with pytest.raises(InputError, match="none of 150 test queries"):
        curve(train, replace(test_set, weak=np.full(150, np.nan)), router)
    with pytest.raises(InputError, match="groups are in both"):
        curve(train, replace(test_set, groups=train.groups[:150]), router)


def test_a_probe_that_is_fitted_already_is_refused(train, test_set):
    router = ProbeRouter(read_points=(ReadPoint(2),), kinds=("linear",))
    fitted = router.fit(train, np.random.default_rng(0))
    with pytest.raises(InputError, match="was fitted before"):
        curve(train, test_set, ProbeRouter(fitted=fitted))
