"""What each baseline is, beyond what all routers promise."""

import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from foretell.calibration import auroc
from foretell.errors import ConfigError, InputError, TrainingDataError
from foretell.records import ReadPoint
from foretell.routers import (
    KEYWORD_RULES,
    ConstantRouter,
    FittedProbeRouter,
    LogisticRouter,
    ProbeRouter,
    RandomRouter,
    answer_logprob_router,
    domain_router,
    embedding_router,
    first_token_entropy_router,
    keyword_router,
    length_router,
    make_router,
    tfidf_router,
)


def generator():
    return np.random.default_rng(0)


def numbers(_train):
    return lambda data: np.asarray([[float(i)] for i in data.lengths])


def test_the_regression_is_scikit_learns(make_data):
    data = make_data()
    ours = LogisticRouter(name="mine", sees="query", featuriser=numbers, inverse_l2=(0.3,))
    theirs = LogisticRegression(C=0.3).fit(data.lengths[:, None], data.weak)
    expected = theirs.decision_function(data.lengths[:, None])
    assert ours.fit(data, generator()).score(data) == pytest.approx(expected, abs=1e-3)


def test_a_success_rate_counts_as_that_many_answers(make_data):
    data = make_data()
    rates = np.random.default_rng(2).integers(0, 5, len(data)) / 4
    each = [(row, answer) for row, r in enumerate(rates) for answer in [1] * int(4 * r)]
    each += [(row, answer) for row, r in enumerate(rates) for answer in [0] * int(4 - 4 * r)]
    rows, answers = map(np.array, zip(*each, strict=True))
    soft = LogisticRouter(name="soft", sees="query", featuriser=numbers, inverse_l2=(4.0,))
    hard = LogisticRegression(C=1.0).fit(data.lengths[rows][:, None], answers)
    fitted = soft.fit(replace(data, weak=rates), generator())
    assert fitted.coefficients == pytest.approx(hard.coef_[0], abs=1e-3)


@pytest.mark.parametrize("sign", [1, -1])
def test_whether_long_is_easier_is_learnt(make_data, sign):
    data = make_data()
    lengths = np.arange(1, len(data) + 1)
    easier = (sign * (lengths - lengths.mean()) > 0).astype(float)
    fitted = length_router().fit(replace(data, lengths=lengths, weak=easier), generator())
    short, long = fitted.score(replace(data.take(np.array([0, 1])), lengths=np.array([1, 120])))
    assert (long - short) * sign > 0


def test_the_middle_length_may_be_the_easiest(make_data):
    data = make_data()
    lengths = np.arange(1, len(data) + 1)
    easy = ((lengths > 10) & (lengths < 60)).astype(float)
    fitted = length_router().fit(replace(data, lengths=lengths, weak=easy), generator())
    assert auroc(fitted.score(replace(data, lengths=lengths)), easy) > 0.95
    far = replace(data.take(np.array([0, 1])), lengths=np.array([120, 10**9]))
    end, beyond = fitted.score(far)
    assert end == beyond


def test_the_featuriser_is_the_one_that_does_best_on_held_out_folds(make_data):
    data = make_data()

    def nothing(_train):
        return lambda rows: np.zeros((len(rows), 1))

    for candidates in ((nothing, numbers), (numbers, nothing)):
        router = LogisticRouter(
            name="mine", sees="query", featuriser=candidates[0], alternatives=candidates[1:]
        )
        assert router.fit(data, generator()).coefficients != 0


@pytest.mark.parametrize("mark", ["{} xyz", "{}xyz"], ids=["a word", "the end of a word"])
def test_tfidf_finds_a_mark_that_is(mark, make_data):
    data = make_data(200)
    draw = np.random.default_rng(0)
    weak = draw.integers(0, 2, 200).astype(float)
    noise = ["".join(draw.choice(list("abcdefgh"), 9)) for _ in weak]
    texts = tuple(mark.format(n) if w else n for n, w in zip(noise, weak, strict=True))
    train, new = np.arange(100), np.arange(100, 200)
    marked = replace(data, texts=texts, weak=weak)
    fitted = tfidf_router().fit(marked.take(train), generator())
    assert auroc(fitted.score(marked.take(new)), weak[new]) > 0.95


def test_a_weight_counts_as_that_many_rows(make_data):
    data = make_data()
    weights = 1.0 + np.arange(len(data)) % 3
    rows = np.repeat(np.arange(len(data)), weights.astype(int))
    router = LogisticRouter(name="mine", sees="query", featuriser=numbers)
    theirs = LogisticRegression().fit(data.lengths[rows][:, None], data.weak[rows])
    fitted = router.fit(replace(data, weights=weights), generator())
    assert fitted.coefficients == pytest.approx(theirs.coef_[0], abs=1e-3)
    assert fitted.p_success(data) @ weights == pytest.approx(data.weak @ weights, rel=0.02)


def test_a_missing_column_is_named(make_data):
    data = replace(make_data(), first_entropy=np.empty(0), answer_logprob=np.full(120, np.nan))
    with pytest.raises(TrainingDataError, match="'first_entropy' holds no value in"):
        first_token_entropy_router().fit(data, generator())
    with pytest.raises(TrainingDataError, match="'answer_logprob' holds no value in"):
        answer_logprob_router().fit(data, generator())


def test_an_unknown_signal_counts_as_the_mean(make_data):
    data = make_data()
    fitted = first_token_entropy_router().fit(data, generator())
    mean = float(np.nanmean(data.first_entropy))
    one = data.take(np.array([0]))
    unknown = fitted.score(replace(one, first_entropy=np.array([np.nan])))
    assert unknown == pytest.approx(fitted.score(replace(one, first_entropy=np.array([mean]))))
    assert unknown == pytest.approx(fitted.score(replace(one, first_entropy=np.empty(0))))


def test_the_domain_router_is_constant_where_there_is_nothing_to_tell(make_data):
    data = replace(make_data(), attributes=({},) * 120)
    fitted = domain_router().fit(data, generator())
    assert len(set(fitted.score(data))) == 1
    assert fitted.p_success(data) == pytest.approx(np.full(120, data.weak.mean()), abs=0.02)


def test_the_domain_router_ignores_what_it_has_not_met(make_data):
    data = make_data()
    fitted = domain_router().fit(data, generator())
    one = replace(data.take(np.array([0])), attributes=({},))
    strange = replace(one, attributes=({"hard": "who knows", "new": [1, {}]},))
    assert fitted.score(one) == fitted.score(strange)


def test_the_domain_itself_is_a_category(make_data):
    data = make_data()
    named = tuple("easy" if w else "hard" for w in data.weak)
    fitted = domain_router().fit(replace(data, domain=named, attributes=({},) * 120), generator())
    easy, hard = fitted.p_success(replace(data, domain=named, attributes=({},) * 120))[
        [int(np.argmax(data.weak)), int(np.argmin(data.weak))]
    ]
    assert easy > 0.9 > 0.1 > hard


HITS = {
    "digit": "room 7",
    "several_numbers": "3 apples, 4 pears and 5 plums",
    "arithmetic": "12 * x",
    "money_or_unit": "a rope of two miles",
    "how_many": "How many?",
    "which_or_what": "Which one?",
    "why_or_how": "Explain it",
    "negation": "it isn't",
    "condition": "if so",
    "comparison": "the tallest",
    "quantifier": "each of us",
    "order_in_time": "and then",
    "proof": "show that x",
    "code": "a Python class",
    "list_asked": "Summarise it",
    "quotation": "a “word”",
    "several_sentences": "One. Two",
    "name_within_sentence": "ask Anna",
    "long_word": "incomprehensible",
    "beyond_ascii": "é",
}


@pytest.mark.parametrize("rule", KEYWORD_RULES)
def test_each_keyword_rule_is_hit_by_its_example_and_not_by_plain_words(rule):
    assert KEYWORD_RULES[rule].search(HITS[rule])
    assert not KEYWORD_RULES[rule].search("say a word to me")


def test_keyword_rules_take_no_time_on_long_texts(make_data):
    data = make_data()
    fitted = keyword_router().fit(data, generator())
    hostile = ("A " * 50_000, "1" * 100_000, "1 1" + " " * 100_000, ". " * 50_000, "a" * 100_000)
    started = time.process_time()
    fitted.score(replace(data.take(np.arange(len(hostile))), texts=hostile))
    # Quadratic patterns took a minute and a half.
    assert time.process_time() - started < 5


def test_texts_without_a_word_leave_tfidf_constant(make_data):
    data = replace(make_data(), texts=("",) * 120)
    fitted = tfidf_router().fit(data, generator())
    assert len(set(fitted.score(data))) == 1


def test_the_regularisation_is_the_one_that_does_best_on_held_out_folds(make_data):
    data = make_data()
    noise = np.random.default_rng(0).normal(size=(4000, 60))

    def featuriser(_train):
        return lambda rows: noise[[hash(i) % 4000 for i in rows.ids]]

    strengths = (1e-4, 1e4)
    router = LogisticRouter(
        name="noise", sees="nothing", featuriser=featuriser, inverse_l2=strengths
    )
    # Features that tell nothing are best given next to no weight.
    assert np.abs(router.fit(data, generator()).coefficients).max() < 0.05


def test_always_weak_keeps_and_always_strong_escalates(make_data):
    data = make_data()
    weak = ConstantRouter(name="weak", chance=1.0).fit(data, generator())
    strong = ConstantRouter(name="strong", chance=0.0).fit(data, generator())
    assert set(weak.p_success(data)) == {1.0}
    assert set(strong.p_success(data)) == {0.0}


def test_the_lot_of_a_query_is_uniform_and_depends_on_the_generator(make_data):
    data = make_data(2_000)
    one = RandomRouter().fit(data, np.random.default_rng(1)).score(data)
    other = RandomRouter().fit(data, np.random.default_rng(2)).score(data)
    assert np.histogram(one, bins=10, range=(0, 1))[0].min() > 140
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.1


def test_the_embedding_router_asks_its_encoder(make_data, encode):
    asked = []

    def spy(texts):
        asked.extend(texts)
        return encode(texts)

    data = make_data()
    embedding_router(spy).fit(data, generator())
    assert set(asked) == set(data.texts)


def test_the_probe_router_wraps_the_selected_probe(make_data):
    data, steps = make_data(), []
    point = ReadPoint(1, "last")
    router = ProbeRouter(read_points=(point,), progress=lambda done, of: steps.append((done, of)))
    fitted = router.fit(data, generator())
    assert fitted.selection is not None
    assert fitted.probe is fitted.selection.probe
    assert fitted.probe.read_point == point
    assert np.array_equal(fitted.score(data), fitted.probe.score(data.activations[point]))
    assert steps[-1] == (len(steps), len(steps))


def test_a_probe_fitted_before_is_taken_as_it_is(make_data):
    data = make_data()
    before = ProbeRouter().fit(data, generator())
    saved = FittedProbeRouter(probe=before.probe)
    assert ProbeRouter(fitted=saved).fit(make_data(seed=3), generator()) is saved


def test_a_probe_says_which_read_point_is_missing(make_data):
    data = make_data()
    fitted = ProbeRouter(read_points=(ReadPoint(1, "last"),)).fit(data, generator())
    with pytest.raises(InputError, match=r"reads layer1_last, but the queries hold .* layer2_mean"):
        fitted.score(
            replace(
                data, activations={ReadPoint(2, "mean"): data.activations[ReadPoint(2, "mean")]}
            )
        )


def test_groups_that_cannot_be_cut_are_refused(make_data):
    with pytest.raises(TrainingDataError, match="in 1 groups cannot be cut into two folds"):
        length_router().fit(replace(make_data(), groups=("one",) * 120), generator())


def test_no_group_straddles_a_fold(make_data):
    from foretell.routers._training import group_folds

    data = make_data()
    folds = group_folds(data, generator())
    assert sorted(np.concatenate([held for _, held in folds])) == list(range(120))
    for fitted, held in folds:
        assert not {data.groups[i] for i in fitted} & {data.groups[i] for i in held}


def test_fitting_without_scikit_learn_names_the_extra(make_data, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.model_selection", None)
    with pytest.raises(TrainingDataError, match=r"pip install 'foretell\[train\]'"):
        length_router().fit(make_data(), generator())


def test_an_unknown_router_is_named_beside_the_known_ones():
    with pytest.raises(ConfigError, match="no router 'prob'; use one of probe, gain, embedding"):
        make_router("prob")


def test_a_router_of_another_package_that_breaks_is_named(monkeypatch):
    from importlib.metadata import EntryPoint

    entry = EntryPoint("broken", "foretell.routers:no_such_thing", "foretell.routers")
    monkeypatch.setattr("foretell.routers._registry.entry_points", lambda **_: [entry])
    with pytest.raises(ConfigError, match=r"router 'broken' of foretell\.routers:no_such_thing"):
        make_router("broken")
