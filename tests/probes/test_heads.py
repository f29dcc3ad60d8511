"""Heads foretell the strong model's success and the answer's length, or say why they cannot."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.linear_model import Ridge

from foretell.calibration import auroc
from foretell.errors import InputError, TrainingDataError
from foretell.probes import (
    Heads,
    HeadsSettings,
    TokensHead,
    TokensHeadSettings,
    fit_heads,
    load_probe,
    save_probe,
)
from foretell.probes._fitting import fit_reduction
from foretell.probes._head_fitting import _ridge
from foretell.records import ReadPoint

NOISE, POINT = ReadPoint(0, "mean"), ReadPoint(1, "mean")
N = 400


def with_heads(make_data, n=N, *, seed=0, spread=0.3):
    """Layer 1 knows both the strong model's outcome and the length of the weak model's answer."""
    data = make_data(n, seed=seed)
    generator = np.random.default_rng(seed)
    rows = data.activations[POINT].astype(np.float64)
    standard = (rows - rows.mean(axis=0)) / rows.std(axis=0)
    one, other = 3 * standard[:, :12].mean(axis=1), 3 * standard[:, 12:].mean(axis=1)
    strong = (one + 0.3 * generator.normal(size=n) > 0).astype(float)
    log_length = 3 + 0.5 * other + spread * generator.normal(size=n)
    return replace(data, strong=strong, weak_tokens=np.round(np.exp(log_length)))


@pytest.fixture(scope="module")
def train(make_data):
    return with_heads(make_data)


@pytest.fixture(scope="module")
def fitted(train):
    return fit_heads(train, [NOISE, POINT], seed=0)


@pytest.fixture
def tokens_head():
    return TokensHead(
        settings=TokensHeadSettings(
            read_point=POINT,
            bias=1.0,
            smearing=1.25,
            fewest=2.0,
            most=50.0,
            metrics={},
            n_train=10,
        ),
        weight=np.array([1.0, -0.5], np.float32),
    )


def test_each_head_reads_where_it_is_foretold_best(fitted):
    assert fitted.heads.strong.read_point == POINT
    assert fitted.heads.tokens.read_point == POINT
    assert fitted.heads.read_points == (POINT,)
    assert fitted.heads.reasons == {}


def test_held_out_chances_rank_the_strong_models_outcomes_and_are_true_to_their_word(fitted, train):
    metrics = fitted.heads.strong.settings.metrics
    assert metrics["auroc"].value > 0.85
    assert metrics["ece"].value < 0.1
    assert metrics["auroc"].value == auroc(fitted.p_strong, train.strong)
    assert fitted.heads.strong.settings.n_train == N
    assert fitted.heads.strong.settings.base_rate == pytest.approx(train.strong.mean())


def test_the_foretold_length_beats_the_median_and_keeps_the_total(fitted, train):
    metrics = fitted.heads.tokens.settings.metrics
    assert metrics["r2"].value > 0.4
    assert metrics["spearman"].value > 0.6
    assert metrics["mae"].value < 0.85 * metrics["mae_of_median"].value
    assert fitted.expected_tokens.mean() == pytest.approx(train.weak_tokens.mean(), rel=0.05)
    for metric in metrics.values():
        assert metric.low <= metric.value <= metric.high
        assert metric.n == N


def test_metrics_are_what_their_names_say(fitted, train):
    metrics = fitted.heads.tokens.settings.metrics
    error = np.abs(fitted.expected_tokens - train.weak_tokens)
    assert metrics["mae"].value == pytest.approx(error.mean())
    found = spearmanr(fitted.expected_tokens, train.weak_tokens).statistic
    assert metrics["spearman"].value == pytest.approx(found, abs=0.01)


def test_heads_foretell_new_queries_as_well_as_held_out_ones(fitted, train):
    new = train.take(np.arange(0, N, 2))
    heads = fit_heads(train.take(np.arange(1, N, 2)), [POINT], seed=0).heads
    activations = new.activations[POINT]
    assert auroc(heads.strong.p_strong(activations), new.strong) > 0.85
    error = np.abs(heads.tokens.expected_tokens(activations) - new.weak_tokens).mean()
    assert error < 1.2 * fitted.heads.tokens.settings.metrics["mae"].value


def test_a_query_that_is_foretold_by_its_own_head_would_look_better_than_it_is(fitted, train):
    """So the held-out columns must differ from what the finished heads say of the same rows."""
    seen = fitted.heads.strong.p_strong(train.activations[POINT])
    assert not np.allclose(seen, fitted.p_strong)
    assert auroc(seen, train.strong) > auroc(fitted.p_strong, train.strong)


def test_queries_without_a_label_are_foretold_by_the_head_itself(train):
    some = np.arange(N) % 3 > 0
    known = replace(
        train,
        strong=np.where(some, train.strong, np.nan),
        weak_tokens=np.where(some, train.weak_tokens, np.nan),
    )
    found = fit_heads(known, [POINT], seed=0)
    rows = train.activations[POINT][~some]
    assert found.heads.strong.settings.n_train == found.heads.tokens.settings.n_train == some.sum()
    foretold = found.heads.strong.p_strong(rows), found.heads.tokens.expected_tokens(rows)
    assert found.p_strong[~some] == pytest.approx(foretold[0], rel=1e-4)
    assert found.expected_tokens[~some] == pytest.approx(foretold[1], rel=1e-4)
    assert np.isfinite(found.p_strong).all()


def test_one_vector_is_answered_as_in_a_batch(fitted, train):
    strong, tokens = fitted.heads.strong, fitted.heads.tokens
    rows = train.activations[POINT][:20]
    singles = [(strong.p_strong(row), tokens.expected_tokens(row)) for row in rows]
    assert all(isinstance(number, float) for pair in singles for number in pair)
    assert strong.p_strong(rows) == pytest.approx([p for p, _ in singles], rel=1e-4)
    assert tokens.expected_tokens(rows) == pytest.approx([n for _, n in singles], rel=1e-4)


def test_a_forecast_is_the_smeared_exponential(tokens_head):
    # 1.25 * exp(1 * 2 - 0.5 * 1 + 1) - 1
    assert tokens_head.expected_tokens([2.0, 1.0]) == pytest.approx(1.25 * np.exp(2.5) - 1)


@given(st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=2, max_size=2))
def test_a_forecast_stays_within_the_training_range(activation):
    head = TokensHead(
        settings=TokensHeadSettings(
            read_point=POINT,
            bias=0.0,
            smearing=1.5,
            fewest=2.0,
            most=50.0,
            metrics={},
            n_train=10,
        ),
        weight=np.array([1.0, -0.5], np.float32),
    )
    assert 2 - 1e-9 <= head.expected_tokens(activation) <= 50 + 1e-9
    assert head.expected_tokens([activation])[0] == pytest.approx(head.expected_tokens(activation))


def test_duans_smearing_undoes_the_bias_of_the_logarithm(make_data):
    """With log-normal noise of spread s the factor is near exp(s^2 / 2), and the mean comes out."""
    data = with_heads(make_data, spread=0.8)
    found = fit_heads(data, [POINT], seed=0)
    assert found.heads.tokens.settings.smearing == pytest.approx(np.exp(0.8**2 / 2), rel=0.15)
    assert found.expected_tokens.mean() == pytest.approx(data.weak_tokens.mean(), rel=0.08)


def test_the_folded_ridge_is_that_of_scikit_learn(train):
    rows = train.activations[POINT]
    log, weights = np.log1p(train.weak_tokens), np.linspace(0.5, 2, N)
    reduction = fit_reduction(rows, 8)
    folded = _ridge(reduction, rows, log, weights, 10.0)
    reference = Ridge(alpha=10.0).fit(reduction(rows), log, sample_weight=weights)
    assert rows @ folded.weight + folded.bias == pytest.approx(
        reference.predict(reduction(rows)), abs=1e-3
    )


def test_a_weight_of_two_is_two_queries(train):
    """In the means; folds and intervals know rows, not weights."""
    doubled = replace(train, weights=np.where(train.strong == 1, 2.0, 1.0))
    settings = fit_heads(doubled, [POINT], seed=0).heads.strong.settings
    ones = train.strong.sum()
    assert settings.base_rate == pytest.approx(2 * ones / (2 * ones + N - ones))


def test_lengths_that_never_vary_have_a_forecast_but_no_share_explained(train):
    found = fit_heads(replace(train, weak_tokens=np.full(N, 3.0)), [POINT], seed=0)
    metrics = found.heads.tokens.settings.metrics
    assert found.expected_tokens == pytest.approx(np.full(N, 3.0))
    assert (metrics["r2"].value, metrics["spearman"].value) == (None, None)
    assert metrics["mae"].value == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("strong", "reason"),
    [
        (np.empty(0), "known for 0 of 400 queries; wanted at least 50"),
        (np.where(np.arange(N) < 49, 1.0, np.nan), "known for 49 of 400"),
        (np.ones(N), "none of the 400 labelled queries are failures"),
    ],
)
def test_a_head_that_the_labels_cannot_support_is_left_out_with_the_reason(train, strong, reason):
    found = fit_heads(replace(train, strong=strong), [POINT], seed=0)
    assert (found.heads.strong, found.p_strong) == (None, None)
    assert reason in found.heads.reasons["strong"]
    assert found.heads.tokens is not None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"weak_tokens": np.empty(0)}, "known for 0 of 400"),
        ({"weak_tokens": np.full(N, -1.0)}, "400 are negative"),
        ({"weights": np.zeros(N)}, "has weight"),
        ({"groups": ("same",) * N}, "1 groups"),
    ],
)
def test_lengths_that_cannot_be_learnt_from_leave_no_tokens_head(train, changes, reason):
    found = fit_heads(replace(train, **changes), [POINT], seed=0)
    assert (found.heads.tokens, found.expected_tokens) == (None, None)
    assert reason in found.heads.reasons["tokens"]


def test_what_is_wrong_with_the_call_is_an_error_and_no_reason(train):
    with pytest.raises(TrainingDataError, match="'layer7_last' is not in the training set"):
        fit_heads(train, [ReadPoint(7)], seed=0)
    with pytest.raises(TrainingDataError, match="no read points"):
        fit_heads(train, [], seed=0)
    with pytest.raises(InputError, match="at least 2 folds, got 1"):
        fit_heads(train, [POINT], folds=1, seed=0)


@pytest.mark.parametrize("activation", [np.zeros(5), np.zeros((2, 5)), [np.nan, 0], [[np.inf, 0]]])
def test_an_activation_of_another_width_or_not_finite_is_refused(tokens_head, activation):
    with pytest.raises(InputError, match=r"do not fit|not finite"):
        tokens_head.expected_tokens(activation)


@pytest.mark.parametrize(
    "change",
    [{"bias": np.nan}, {"smearing": 0.0}, {"fewest": 60.0}, {"fewest": -1.0}, {"most": np.inf}],
)
def test_settings_that_make_no_tokens_head_are_refused(tokens_head, change):
    with pytest.raises(InputError, match="is not one"):
        replace(tokens_head.settings, **change)


@pytest.mark.parametrize("weight", [np.zeros((2, 2)), np.zeros(0), np.array([np.nan])])
def test_a_weight_that_is_no_vector_of_numbers_is_refused(tokens_head, weight):
    with pytest.raises(InputError, match="tokens head"):
        replace(tokens_head, weight=weight)


def test_heads_are_saved_beside_their_probe(fitted, train, selection, card, held_out, tmp_path):
    described = replace(card, heads=fitted.heads.settings())
    save_probe(selection.probe, described, tmp_path / "p", held_out=held_out, heads=fitted.heads)
    saved = load_probe(tmp_path / "p")
    rows = train.activations[POINT]
    assert saved.card.heads == fitted.heads.settings()
    assert np.array_equal(saved.heads.strong.p_strong(rows), fitted.heads.strong.p_strong(rows))
    assert np.array_equal(
        saved.heads.tokens.expected_tokens(rows), fitted.heads.tokens.expected_tokens(rows)
    )


@pytest.fixture(scope="module")
def pooled(train):
    """The pool's twin answers as the strong model does; nobody labelled the stranger."""
    return fit_heads(
        train, [NOISE, POINT], pool={"twin.2": train.strong, "stranger": np.full(N, np.nan)}, seed=0
    )


def test_a_head_of_the_pool_is_what_the_strong_models_would_be(pooled, train):
    rows = train.activations[POINT]
    twin = pooled.heads.pool["twin.2"]
    assert twin.settings == pooled.heads.strong.settings
    assert np.array_equal(twin.p_strong(rows), pooled.heads.strong.p_strong(rows))
    assert np.array_equal(pooled.p_pool["twin.2"], pooled.p_strong)
    assert pooled.heads.read_points == (POINT,)


def test_a_member_of_the_pool_without_labels_is_left_out_with_the_reason(pooled):
    assert set(pooled.heads.pool) == set(pooled.p_pool) == {"twin.2"}
    reason = pooled.heads.reasons["pool.stranger"]
    assert reason.startswith("outcomes of stranger: known for 0 of 400 queries")


def test_heads_of_a_pool_are_saved_beside_their_probe(
    pooled, train, selection, card, held_out, tmp_path
):
    described = replace(card, heads=pooled.heads.settings())
    save_probe(selection.probe, described, tmp_path / "p", held_out=held_out, heads=pooled.heads)
    saved = load_probe(tmp_path / "p")
    rows = train.activations[POINT]
    for name, head in pooled.heads.pool.items():
        assert np.array_equal(saved.heads.pool[name].p_strong(rows), head.p_strong(rows))
    assert saved.card.heads.reasons == pooled.heads.reasons


def test_outcomes_of_a_pool_are_one_for_each_query(train):
    with pytest.raises(InputError, match=r"outcomes of 'mid' have shape \(3,\)"):
        fit_heads(train, [POINT], pool={"mid": np.ones(3)}, seed=0)


@pytest.mark.parametrize("left_out", ["strong", "tokens"])
def test_a_head_that_is_not_there_comes_back_as_its_reason(fitted, left_out):
    heads = replace(fitted.heads, **{left_out: None, "reasons": {left_out: "too few"}})
    again = Heads.from_tensors(heads.settings(), heads.tensors())
    assert getattr(again, left_out) is None
    assert again.settings() == heads.settings()


def test_no_heads_have_no_tensors_and_read_nothing():
    assert Heads().settings() == HeadsSettings()
    assert (Heads().tensors(), Heads().read_points) == ({}, ())


def test_a_missing_array_of_a_head_is_named(fitted):
    for name in fitted.heads.tensors():
        tensors = {k: v for k, v in fitted.heads.tensors().items() if k != name}
        with pytest.raises(InputError, match=name.rsplit(".", 1)[-1]):
            Heads.from_tensors(fitted.heads.settings(), tensors)


def test_fitting_without_scikit_learn_names_the_extra():
    program = """
import sys
sys.modules["sklearn"] = None
import numpy as np
from foretell.errors import TrainingDataError
from foretell.probes import fit_gate, fit_heads
from foretell.records import ReadPoint, RoutingData
data = RoutingData(
    domain=(), ids=(), texts=(), groups=(), lengths=np.empty(0, np.int64), attributes=()
)
for fit in (
    lambda: fit_heads(data, [], seed=0),
    lambda: fit_gate(np.ones((2, 2), np.float32), ReadPoint(0), seed=0),
):
    try:
        fit()
    except TrainingDataError as error:
        assert "foretell[train]" in str(error), error
    else:
        raise AssertionError("nothing was refused")
"""
    subprocess.run([sys.executable, "-c", program], check=True)
