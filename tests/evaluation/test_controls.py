"""Leaks are refused with counts, near-duplicates counted, shuffled labels tell nothing."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from foretell.calibration import auroc
from foretell.errors import InputError, ProbeMismatchError
from foretell.evaluation import evaluate_routers
from foretell.evaluation._controls import (
    check_controls,
    length_residualised,
    refuse_leaks,
    shuffled_auroc,
    within_domain,
)
from foretell.evaluation._intervals import Resamples
from foretell.routers import ProbeRouter, length_router


def test_a_shared_group_is_refused_with_its_count(train, test_set):
    leaking = replace(test_set, groups=(*train.groups[:6], *test_set.groups[6:]))
    with pytest.raises(InputError, match=r"3 groups are in both .* such as '1-0'"):
        evaluate_routers(train, leaking, [length_router()], np.random.default_rng(0))


def test_a_shared_id_is_refused_with_its_count(train, test_set):
    leaking = replace(test_set, ids=(*train.ids[:4], *test_set.ids[4:]))
    with pytest.raises(InputError, match="4 query ids are in both"):
        refuse_leaks(train, leaking)


def test_a_repeated_id_is_refused_with_its_count(train, test_set):
    with pytest.raises(InputError, match="2 ids come more than once in the test set"):
        refuse_leaks(train, replace(test_set, ids=("a", "a", "a", *test_set.ids[3:])))
    with pytest.raises(InputError, match="1 ids come more than once in the training set"):
        refuse_leaks(replace(train, ids=("a", "a", *train.ids[2:])), test_set)


def test_sets_of_different_models_are_refused(train, test_set):
    assert test_set.model is not None
    other = replace(test_set, model=replace(test_set.model, weights_sha256="c" * 64))
    with pytest.raises(ProbeMismatchError, match="collect both on one model"):
        refuse_leaks(train, other)
    refuse_leaks(train, replace(test_set, model=None))


@pytest.fixture(scope="module")
def router(train):
    """A fitted probe, for tests that fit its setting again."""
    return ProbeRouter(kinds=("linear",)).fit(train, np.random.default_rng(0))


def draws_over(data, count=400):
    return Resamples.draw(data.groups, np.random.default_rng(0), count)


def test_shuffled_labels_tell_nothing(train, make_data, router):
    test = make_data(400, seed=9)

    def found(seed):
        return shuffled_auroc(train, test, router, draws_over(test), np.random.default_rng(seed))

    several = [found(seed) for seed in range(8)]
    assert np.mean([one.value for one in several]) == pytest.approx(0.5, abs=0.06)
    # 95 % intervals: of eight, all but two hold the truth with a chance above 99 %.
    assert sum(one.low <= 0.5 <= one.high for one in several) >= 6
    assert found(0) == several[0]


def test_outcomes_that_no_shuffle_parts_from_their_queries_show(train, make_data, router):
    class Unshuffled:
        def permutation(self, values):
            return values

    class Broken:
        def spawn(self, count):
            return [np.random.default_rng(0), *(Unshuffled() for _ in range(count - 1))]

    test = make_data(400, seed=9)
    found = shuffled_auroc(train, test, router, draws_over(test), Broken())
    assert found.low > 0.5


def test_shuffling_is_undefined_on_one_class(train, test_set, router):
    same = replace(test_set, weak=np.ones(len(test_set)))
    rng = np.random.default_rng(0)
    assert shuffled_auroc(train, same, router, draws_over(same), rng).value is None


def test_a_planted_length_confound_is_taken_out_and_real_signal_stays(make_data):
    data = make_data(600, seed=3)
    rng = np.random.default_rng(0)
    lengths = rng.integers(10, 400, 600)
    # Longer fails more often, and something that length knows nothing of matters as well.
    hidden = rng.normal(size=600)
    weak = (hidden - (lengths - 200) / 60 + 0.5 * rng.normal(size=600) > 0).astype(np.float64)
    data = replace(data, lengths=lengths, weak=weak)
    by_length, by_both = -lengths.astype(np.float64), hidden - (lengths - 200) / 60
    scores = {"length": by_length, "curved": np.exp(-lengths / 50), "both": by_both}
    found = length_residualised(scores, data, draws_over(data))
    assert auroc(by_length, weak) > 0.8
    assert found["length"].value == pytest.approx(0.5, abs=0.06)
    # Any rising function of the length ranks as the length does.
    assert found["curved"] == found["length"]
    assert 0.8 < found["both"].value < auroc(by_both, weak)
    assert found["both"].low <= found["both"].value <= found["both"].high


def test_a_score_that_only_tells_domains_apart_has_half_within_them(make_data):
    data = make_data(400, seed=4)
    easy = np.arange(400) % 2 == 0
    rng = np.random.default_rng(0)
    data = replace(
        data,
        domain=tuple(np.where(easy, "easy", "hard")),
        weak=(rng.random(400) < np.where(easy, 0.9, 0.2)).astype(np.float64),
    )
    scores = {"domain": easy.astype(np.float64)}
    assert auroc(scores["domain"], data.weak) > 0.8
    found = within_domain(scores, data, draws_over(data))
    assert (found["domain"].value, found["domain"].low, found["domain"].high) == (0.5, 0.5, 0.5)
    assert within_domain(scores, replace(data, domain=("one",) * 400), draws_over(data)) == {}


def test_all_controls_come_together_and_survive_json(train, test_set, router):
    scores = {"probe": router.score(test_set)}
    copied = replace(test_set, texts=(*train.texts[:12], *test_set.texts[12:]))
    draws = draws_over(test_set)

    def checked(**more):
        return check_controls(train, copied, router, np.random.default_rng(0), **more)

    controls = checked(scores=scores, resamples=draws)
    assert controls.near_duplicates == 12
    assert len(controls.near_duplicate_pairs) == 10
    assert controls.near_duplicate_pairs[0].similarity == pytest.approx(1)
    assert controls.shuffled_auroc == controls.shuffled.value
    assert controls.length_residualised["probe"].n == len(test_set)
    assert controls.within_domain == {}
    json.dumps(asdict(controls), allow_nan=False)
    assert checked().length_residualised == {}
    without = check_controls(train, copied, None, np.random.default_rng(0))
    assert without.shuffled_auroc is None
