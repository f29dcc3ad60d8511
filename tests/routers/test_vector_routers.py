"""Routers on sentence vectors, each against a plain rewrite or a reference."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import approx_fprime, minimize_scalar
from sklearn.linear_model import LogisticRegression

from foretell.records import RoutingData
from foretell.routers import (
    MatrixFactorisation,
    Neighbours,
    SimilarityRanking,
    knn_router,
    matrix_factorisation_router,
    similarity_ranking_router,
)
from foretell.routers._contest import contest
from foretell.routers._matrix_factorisation import _Factors

METHODS = [
    Neighbours(count=7),
    SimilarityRanking(),
    MatrixFactorisation(dimensions=3, weight_decay=0.01),
]
ROUTERS = [knn_router, matrix_factorisation_router, similarity_ranking_router]


def draw(n=60, width=5, seed=0):
    """Unit vectors and outcomes of 0 and 1 that they tell something about."""
    generator = np.random.default_rng(seed)
    vectors = generator.normal(size=(n, width))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    outcomes = (vectors[:, 0] + 0.5 * generator.normal(size=n) > 0).astype(float)
    return vectors, outcomes


def outcomes_of(weak, strong):
    """Queries of which nothing but the outcomes matters."""
    n = len(weak)
    return RoutingData(
        domain=("made up",) * n,
        ids=tuple(map(str, range(n))),
        texts=("",) * n,
        groups=("",) * n,
        lengths=np.ones(n, np.int64),
        attributes=({},) * n,
        weak=np.asarray(weak, float),
        strong=np.asarray(strong, float),
    )


def fitted(method, vectors, outcomes, weights=None):
    weights = np.ones(len(vectors)) if weights is None else weights
    return method.fit(vectors, outcomes, weights, np.random.default_rng(0))


def test_the_contest_ranks_what_the_weak_model_is_good_for():
    weak, strong = [1, 1, 0, 0, 1], [0, 1, 0, 1, np.nan]
    # Against the bar 1, 1, 0, 0; against the strong model 1, 1/2, 1/2, 0; the last met no other.
    assert contest(outcomes_of(weak, strong)).tolist() == [1.0, 0.75, 0.25, 0.0, 1.0]
    assert contest(outcomes_of(weak, [])).tolist() == weak


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_a_contest_is_a_share_that_falls_as_the_rival_gets_better(weak, one, other):
    worse, better = sorted([one, other])
    against_worse, against_better = contest(outcomes_of([weak] * 2, [worse, better]))
    assert 0 <= against_better <= against_worse <= 1


@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
def test_a_weight_of_two_is_the_row_twice(method):
    vectors, outcomes = draw()
    weights = np.where(np.arange(len(vectors)) % 3 == 0, 2.0, 1.0)
    twice = np.repeat(np.arange(len(vectors)), weights.astype(int))
    new, _ = draw(seed=1)
    weighted = fitted(method, vectors, outcomes, weights)(new)
    repeated = fitted(method, vectors[twice], outcomes[twice])(new)
    if isinstance(method, Neighbours):  # a row twice takes two of the seven places
        assert np.corrcoef(weighted, repeated)[0, 1] > 0.9
    else:
        assert weighted == pytest.approx(repeated, abs=1e-3)


@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
def test_many_queries_at_once_are_scored_as_one_by_one(method):
    scorer = fitted(method, *draw())
    new, _ = draw(600, seed=1)
    assert scorer(new) == pytest.approx(np.concatenate([scorer(row[None]) for row in new]))


def test_neighbours_are_the_plain_weighted_mean():
    vectors, outcomes = draw()
    new, _ = draw(20, seed=1)
    scores = fitted(Neighbours(count=7), vectors, outcomes)(new)
    for query, score in zip(new, scores, strict=True):
        nearest = sorted((1 - query @ v, y) for v, y in zip(vectors, outcomes, strict=True))
        near, reach = nearest[:7], nearest[7][0]
        wins = outcomes.mean() + sum((1 - d / reach) * y for d, y in near)
        total = 1 + sum(1 - d / reach for d, _ in near)
        assert score == pytest.approx(np.log(wins / (total - wins)))


def test_far_from_everything_neighbours_still_answer():
    vectors, outcomes = draw(4)
    scores = fitted(Neighbours(count=80), vectors, outcomes)(-vectors)
    assert np.isfinite(scores).all()


def test_the_same_text_many_times_is_one_opinion():
    vectors, _ = draw(1)
    same = np.repeat(vectors, 30, axis=0)
    # 30 equal neighbours, 12 successes: shrunk to the base rate, which is the same.
    outcomes = np.repeat([1.0, 0.0], [12, 18])
    score = fitted(Neighbours(count=5), same, outcomes)(vectors)
    assert score == pytest.approx([np.log(12 / 18)])


def test_the_number_of_neighbours_is_chosen_on_folds(make_data):
    data = make_data(400)
    angle = np.random.default_rng(0).random(400) * np.pi
    place = {text: [np.cos(a), np.sin(a)] for text, a in zip(data.texts, angle, strict=True)}
    router = knn_router(lambda texts: np.array([place[text] for text in texts], np.float32))

    def chosen(chance):
        weak = (np.random.default_rng(1).random(400) < chance).astype(float)
        return router.fit(replace(data, weak=weak), np.random.default_rng(0)).method.count

    in_stripes, in_halves = angle // (np.pi / 20) % 2, np.where(angle < np.pi / 2, 0.4, 0.6)
    assert chosen(in_stripes) <= 20 < chosen(in_halves)


def test_the_rating_is_the_weighted_bradley_terry_estimate():
    vectors, outcomes = draw()
    new, _ = draw(5, seed=1)
    ratings = fitted(SimilarityRanking(), vectors, outcomes)(new)
    base = outcomes.mean()
    for query, rating in zip(new, ratings, strict=True):
        cosine = vectors @ query
        weight = 10 ** (1 + cosine / cosine.max())

        def loss(difference, weight=weight):
            won, lost = np.logaddexp(0, -difference), np.logaddexp(0, difference)
            prior = 10**2 * (base * won + (1 - base) * lost)
            return weight @ (outcomes * won + (1 - outcomes) * lost) + prior

        assert rating == pytest.approx(minimize_scalar(loss).x, abs=1e-5)


def test_a_query_unlike_all_others_gets_the_base_rate():
    vectors = np.array([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8]])
    rating = fitted(SimilarityRanking(), vectors, np.array([1.0, 0.0, 0.0]))(-vectors[:1])
    assert rating == pytest.approx([np.log(1 / 2)])


def test_gamma_of_one_makes_all_queries_alike():
    vectors, outcomes = draw()
    scores = fitted(SimilarityRanking(gamma=1.0), vectors, outcomes)(vectors)
    assert scores == pytest.approx(np.full(len(vectors), scores[0]))


def test_the_slope_of_the_factorisation_is_its_difference_quotient():
    vectors, outcomes = draw(20, width=3)
    share = np.full(20, 1 / 20)
    flat = np.random.default_rng(0).normal(size=2 * (4 + 3))

    def loss(at):
        return _Factors.of(at, 2).loss_and_gradient(vectors, outcomes, share, 0.1)

    slope = approx_fprime(flat, lambda at: loss(at)[0], 1e-7)
    assert loss(flat)[1] == pytest.approx(slope, abs=1e-5)


def test_the_factorisation_scores_a_model_less_its_rival():
    factors = _Factors.of(np.random.default_rng(0).normal(size=4 * (4 + 3)), 4)
    query = np.array([0.1, -0.2, 0.3])
    seen = factors.projection @ query + factors.shift
    deltas = [factors.mix @ (model * seen) for model in (factors.weak, factors.rival)]
    coefficients, intercept = factors.as_linear()
    assert query @ coefficients + intercept == pytest.approx(deltas[0] - deltas[1])


def test_without_weight_decay_the_factorisation_is_a_logistic_regression():
    vectors, outcomes = draw(200, width=3)
    ours = fitted(MatrixFactorisation(dimensions=4, weight_decay=0.0), vectors, outcomes)
    theirs = LogisticRegression(C=np.inf).fit(vectors, outcomes)
    assert ours(vectors) == pytest.approx(theirs.decision_function(vectors), abs=0.02)


@pytest.mark.parametrize("router", ROUTERS)
def test_the_strong_models_outcomes_are_used_where_they_are_known(router, make_data, encode):
    data = make_data()
    strong = np.random.default_rng(0).integers(0, 2, len(data)).astype(float)
    strong[::2] = np.nan
    without = router(encode).fit(data, np.random.default_rng(0)).score(data)
    with_strong = router(encode).fit(replace(data, strong=strong), np.random.default_rng(0))
    assert np.isfinite(with_strong.score(data)).all()
    # Neighbours ask how the weak model fared and nothing else.
    assert np.array_equal(with_strong.score(data), without) == (router is knn_router)


@pytest.mark.parametrize("router", ROUTERS)
def test_vectors_are_asked_for_once_and_again_for_new_queries(router, make_data, encode):
    asked = []

    def spy(texts):
        asked.append(tuple(texts))
        return encode(texts)

    data, new = make_data(), make_data(seed=1)
    router(spy).fit(data, np.random.default_rng(0)).score(new)
    assert asked == [data.texts, new.texts]
