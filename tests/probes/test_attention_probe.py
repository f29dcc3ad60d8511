"""An attention probe: its application against a naive one and torch, its laws, what it learns."""

import math
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foretell.calibration import FittedPlatt, auroc
from foretell.errors import InputError, TrainingDataError
from foretell.probes import AttentionProbe, FittedAttentionProbe, FittedProbe, LinearProbe, Probe
from foretell.probes._attention import AttentionVariant
from foretell.records import ReadPoint, RoutingData, TokenActivations

POINT = ReadPoint(3, "tokens")
MEAN = ReadPoint(3, "mean")
CALIBRATION = FittedPlatt(slope=0.5, intercept=0.25)
WIDTH = 5

both = pytest.mark.parametrize("variant", get_args(AttentionVariant))
lengths_of_queries = st.lists(st.integers(1, 9), min_size=1, max_size=6)


def queries(tokens, weak=(), weights=(), groups=None):
    """One query for each (tokens, width) array, with the mean over tokens beside it."""
    n = len(tokens)
    tokens = [np.asarray(rows, dtype=np.float32) for rows in tokens]
    return RoutingData(
        domain=("geo",) * n,
        ids=tuple(f"q{i}" for i in range(n)),
        texts=("?",) * n,
        groups=tuple(f"g{i // 2}" for i in range(n)) if groups is None else groups,
        lengths=np.array([len(rows) for rows in tokens]),
        attributes=({},) * n,
        activations={MEAN: np.stack([rows.mean(axis=0) for rows in tokens])},
        sequences={POINT: TokenActivations.stack(tokens)},
        weak=np.asarray(weak, dtype=np.float64),
        weights=np.asarray(weights, dtype=np.float64),
    )


def made_up_probe(variant="softmax", **changes):
    generator = np.random.default_rng(0)
    parts = {
        "read_point": POINT,
        "variant": variant,
        "queries": generator.normal(size=(2, WIDTH, 3)) if variant == "softmax" else None,
        "values": generator.normal(size=(2, WIDTH, 3)),
        "offsets": generator.normal(size=(2, 3)),
        "bias": 0.5,
        "calibration": CALIBRATION,
    }
    return FittedAttentionProbe(**{**parts, **changes})


def made_up_tokens(lengths, seed=0):
    generator = np.random.default_rng(seed)
    return [generator.normal(size=(length, WIDTH)).astype(np.float32) for length in lengths]


def needles(n=300, *, tokens=12, seed=0, **columns):
    """One token of each query, marked by its first coordinate, tells the outcome by its second.

    The second coordinate of every other token says as much, about nothing.
    """
    generator = np.random.default_rng(seed)
    weak = np.arange(n) % 2
    rows = 0.1 * generator.normal(size=(n, tokens, 6))
    rows[:, :, 1] += generator.choice([-1, 1], size=(n, tokens))
    marked = generator.integers(tokens, size=n)
    rows[np.arange(n), marked, 0] += 4
    rows[np.arange(n), marked, 1] = 2 * weak - 1
    return queries(list(rows), **{"weak": weak, **columns}), marked


def small(variant="softmax", **changes):
    """Settings that fit in a moment."""
    settings = {"read_point": POINT, "variant": variant, "heads": 2, "members": 2, "dropout": 0.0}
    return AttentionProbe(**{**settings, **changes})


@pytest.fixture
def brief(monkeypatch):
    """For what a few epochs show as well as many."""
    from foretell.probes import _torch_fitting

    monkeypatch.setattr(_torch_fitting, "_MOST_EPOCHS", 3)


@both
def test_it_is_one_of_the_probes(variant):
    assert isinstance(AttentionProbe(read_point=POINT, variant=variant), Probe)
    probe = made_up_probe(variant)
    assert isinstance(probe, FittedProbe)
    assert probe.kind == AttentionProbe(read_point=POINT).kind == "attention"
    assert probe.read_points == (POINT,)
    assert probe.width == WIDTH
    assert not probe.reads_first_token


@both
def test_its_score_is_that_of_one_head_after_another(variant):
    probe, tokens = made_up_probe(variant), made_up_tokens([1, 4, 9])
    for rows, score in zip(tokens, probe.scores(queries(tokens)), strict=True):
        total = 0.0
        for member in range(2):
            for head in range(3):
                values = rows @ probe.values[member, :, head] + probe.offsets[member, head]
                if variant == "max":
                    total += values.max()
                else:
                    weights = np.exp(rows @ probe.queries[member, :, head])
                    total += weights @ values / weights.sum()
        assert score == pytest.approx(total / 2 + 0.5, abs=1e-4)


@both
@settings(max_examples=25)
@given(lengths=lengths_of_queries)
def test_a_query_scores_the_same_in_any_company(variant, lengths):
    probe, tokens = made_up_probe(variant), made_up_tokens(lengths)
    alone = [probe.scores(queries([rows]))[0] for rows in tokens]
    assert probe.scores(queries(tokens)) == pytest.approx(alone, abs=1e-4)


@both
@settings(max_examples=25)
@given(order=st.permutations(range(8)), times=st.integers(1, 4))
def test_neither_order_nor_repetition_of_all_tokens_matters(variant, order, times):
    probe, (rows,) = made_up_probe(variant), made_up_tokens([8])
    plain, moved = probe.scores(queries([rows, np.tile(rows[order], (times, 1))]))
    assert moved == pytest.approx(plain, abs=1e-4)


def test_what_no_head_looks_at_changes_nothing():
    # Values and queries without a third coordinate: tokens far along it say nothing new to max,
    # and nothing at all to softmax when the first coordinate keeps attention away.
    pick = np.zeros((1, 3, 1))
    pick[0, 1] = 1
    keep_away = np.zeros((1, 3, 1))
    keep_away[0, 0] = 1
    rows, padding = np.array([[0, 2.0, 0], [0, 1.0, 0]]), np.array([[-200, -3.0, 9]] * 50)
    for variant, attention in (("max", None), ("softmax", keep_away)):
        probe = made_up_probe(variant, queries=attention, values=pick, offsets=np.zeros((1, 1)))
        plain, padded = probe.scores(queries([rows, np.concatenate([rows, padding])]))
        assert padded == pytest.approx(plain, abs=1e-6)


@settings(max_examples=25)
@given(others=st.integers(0, 5000))
def test_more_tokens_dilute_attention_but_not_a_maximum(others):
    # One token of value 1 and logit 2 among others of value 0 and logit 0.
    pick = np.array([[[1.0], [0.0]]])
    rows = np.zeros((1 + others, 2))
    rows[others // 2] = 1, 2
    data = queries([rows])
    parts = {"values": pick, "offsets": np.zeros((1, 1)), "bias": 0.0}
    by_softmax = made_up_probe(queries=pick[:, ::-1], **parts).scores(data)[0]
    assert by_softmax == pytest.approx(math.exp(2) / (math.exp(2) + others), rel=1e-3)
    assert made_up_probe("max", **parts).scores(data)[0] == 1


@both
@settings(max_examples=25)
@given(length=st.integers(1, 30), seed=st.integers(0, 1000))
def test_an_explanation_adds_up_to_the_score(variant, length, seed):
    probe, (rows,) = made_up_probe(variant), made_up_tokens([length], seed)
    explanation = probe.explain(rows)
    assert explanation.weights.shape == explanation.contributions.shape == (length,)
    assert (explanation.weights >= 0).all()
    assert explanation.weights.sum() == pytest.approx(1, abs=1e-5)
    assert explanation.contributions.sum() == pytest.approx(explanation.score - explanation.bias)
    assert explanation.score == pytest.approx(probe.scores(queries([rows]))[0], abs=1e-4)
    assert explanation.bias == probe.bias


def test_of_max_a_weight_is_the_share_of_heads_whose_maximum_it_is():
    # Head k sees coordinate k: two heads peak at the first token, and the third is a tie.
    probe = made_up_probe("max", values=np.eye(3)[None], offsets=np.zeros((1, 3)), bias=0.0)
    explanation = probe.explain([[5.0, 2.0, 1.0], [0.0, 0.0, 1.0]])
    assert explanation.weights == pytest.approx([2.5 / 3, 0.5 / 3])
    assert explanation.contributions == pytest.approx([7.5, 0.5])
    assert explanation.score == pytest.approx(8)


@both
def test_chances_are_calibrated_scores(variant):
    probe, data = made_up_probe(variant), queries(made_up_tokens([2, 3]))
    assert np.array_equal(probe.chances(data), CALIBRATION.p(probe.scores(data)))
    flat = probe.calibrated(FittedPlatt(slope=0.0, intercept=math.log(3)))
    assert flat.chances(data) == pytest.approx([0.75, 0.75])


@both
def test_it_is_made_again_from_its_settings_and_tensors(variant):
    probe, data = made_up_probe(variant), queries(made_up_tokens([2, 3]))
    again = FittedAttentionProbe.from_tensors(probe.settings(), probe.tensors(), CALIBRATION)
    assert np.array_equal(again.scores(data), probe.scores(data))
    assert again.settings() == probe.settings()
    assert again.calibration == CALIBRATION


@pytest.mark.parametrize("missing", ["queries", "values", "offsets", "bias"])
def test_a_missing_tensor_is_refused_by_name(missing):
    probe = made_up_probe()
    tensors = {name: array for name, array in probe.tensors().items() if name != missing}
    with pytest.raises(InputError, match=f"no tensor '{missing}'"):
        FittedAttentionProbe.from_tensors(probe.settings(), tensors, CALIBRATION)
    with pytest.raises(InputError, match="no setting 'variant'"):
        FittedAttentionProbe.from_tensors({"read_point": POINT.name}, probe.tensors(), CALIBRATION)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"read_point": MEAN}, "use 'layer3_tokens'"),
        ({"variant": "mean"}, "unknown variant 'mean'"),
        ({"variant": "max", "queries": np.ones((2, WIDTH, 3))}, "do not fit"),
        ({"queries": None}, "do not fit"),
        ({"queries": np.ones((2, WIDTH, 2))}, "do not fit"),
        ({"values": np.ones((WIDTH, 3))}, "do not fit"),
        ({"values": np.ones((0, WIDTH, 3))}, "do not fit"),
        ({"offsets": np.ones((2, 2))}, "do not fit"),
        ({"offsets": np.full((2, 3), math.nan)}, "offsets holds 6 numbers"),
        ({"bias": math.inf}, "bias is inf"),
    ],
)
def test_parts_that_do_not_fit_together_make_no_probe(changes, complaint):
    with pytest.raises(InputError, match=complaint):
        made_up_probe(**changes)


@both
def test_what_is_fitted_cannot_be_changed_by_accident(variant):
    with pytest.raises(ValueError, match="read-only"):
        made_up_probe(variant).values[0, 0, 0] = 2


@both
def test_queries_that_it_cannot_read_are_refused(variant):
    probe, tokens = made_up_probe(variant), made_up_tokens([2, 3, 1])
    with pytest.raises(InputError, match="'layer3_tokens' in the data, whose sequences are none"):
        probe.scores(queries(tokens).take(np.array([], dtype=np.int64)))
    narrow = [rows[:, :4] for rows in tokens]
    with pytest.raises(InputError, match=r"shape \(6, 4\) do not fit a probe of width 5"):
        probe.scores(queries(narrow))
    for bad in (math.inf, -math.inf, math.nan):
        tokens[1][2, 0] = bad
        with pytest.raises(InputError, match="not finite in 1 of 3 queries"):
            probe.scores(queries(tokens))
    with pytest.raises(InputError, match="not finite in 1 of 3 tokens"):
        probe.explain(tokens[1])
    with pytest.raises(InputError, match=r"shape \(4,\) are not of one query"):
        probe.explain(np.ones(4))
    with pytest.raises(InputError, match="at least one token"):
        probe.explain(np.ones((0, WIDTH)))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"read_point": MEAN}, "reads all tokens, got 'layer3_mean'; use 'layer3_tokens'"),
        ({"variant": "mean"}, "unknown variant 'mean'; use one of softmax, max"),
        ({"heads": 0}, "heads"),
        ({"components": 0}, "components"),
        ({"members": 0}, "members"),
        ({"dropout": -0.1}, "dropout"),
        ({"weight_decay": math.nan}, "weight_decay"),
    ],
)
def test_settings_out_of_range_are_refused(changes, complaint):
    with pytest.raises(InputError, match=complaint):
        AttentionProbe(**{"read_point": POINT, **changes})


@pytest.fixture(scope="module")
def taught():
    """A probe of either variant that has learnt from ``needles``."""
    train, _ = needles()
    return {
        variant: small(variant, components=6, weight_decay=0.01).fit(train, seed=0)
        for variant in get_args(AttentionVariant)
    }


@pytest.mark.torch
@both
def test_it_finds_one_telling_token_that_the_mean_drowns(taught, variant):
    (train, _), (test, marked) = needles(), needles(seed=1)
    probe = taught[variant]
    linear = LinearProbe(read_point=MEAN).fit(train, seed=0)
    assert auroc(linear.scores(test), test.weak) < 0.8
    assert auroc(probe.scores(test), test.weak) > 0.95
    successes = np.flatnonzero(test.weak)
    found = [
        probe.explain(test.sequences[POINT].query(i)).contributions.argmax() == marked[i]
        for i in successes
    ]
    assert np.mean(found) > 0.9


@pytest.mark.torch
def test_max_still_finds_it_in_prompts_much_longer_than_it_was_taught(taught):
    test, _ = needles(100, tokens=1000, seed=1)
    assert auroc(taught["max"].scores(test), test.weak) > 0.95


@pytest.mark.torch
@both
def test_numpy_foretells_what_the_heads_in_torch_do(monkeypatch, variant):
    import torch

    from foretell.probes import _torch_fitting

    seen = []

    def made_up_training(network, *_, **__):
        for parameter in network.parameters():
            parameter.data = torch.randn_like(parameter)
        seen.append(network.eval())

    monkeypatch.setattr(_torch_fitting, "_train", made_up_training)
    # Fewer tokens than there are: the axes are found on a draw of them.
    monkeypatch.setattr(_torch_fitting, "_TOKENS_FOR_AXES", 200)
    generator = np.random.default_rng(0)
    tokens = [rows + 20 for rows in made_up_tokens(generator.integers(1, 12, size=60))]
    data = queries(tokens, weak=np.arange(60) % 2)
    probe = small(variant, components=4, members=3).fit(data, seed=0)
    with torch.no_grad():
        expected = seen[0](torch.arange(60)).mean(0).numpy()
        few = seen[0](torch.tensor([7, 3])).mean(0).numpy()
    assert few == pytest.approx(expected[[7, 3]], abs=1e-4)
    # Activations lie around 20 with coordinates around 1: float32 leaves five digits.
    assert probe.scores(data) == pytest.approx(expected, rel=1e-3, abs=5e-3)


@pytest.mark.torch
@pytest.mark.usefixtures("brief")
@both
def test_the_same_seed_gives_the_same_probe(variant):
    data, _ = needles(100)
    probe = small(variant, dropout=0.2)
    first, second, other = (probe.fit(data, seed=seed).scores(data) for seed in (3, 3, 4))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)


@pytest.mark.torch
@pytest.mark.usefixtures("brief")
def test_a_query_without_weight_teaches_nothing():
    data, _ = needles(100)
    weights = np.arange(100) % 5 + 0.0
    flipped = np.where(weights == 0, 1 - data.weak, data.weak)
    plain, other = (
        small().fit(needles(100, weak=weak, weights=weights)[0], seed=0).scores(data)
        for weak in (data.weak, flipped)
    )
    assert np.array_equal(plain, other)


@pytest.mark.torch
def test_data_that_cannot_support_a_fit_is_refused():
    data, _ = needles(100)
    with pytest.raises(TrainingDataError, match="'layer9_tokens' is not in the training set"):
        small(read_point=ReadPoint(9, "tokens")).fit(data, seed=0)
    with pytest.raises(TrainingDataError, match="none of the 100 labelled queries are failures"):
        small().fit(needles(100, weak=np.ones(100))[0], seed=0)
    spoilt = [data.sequences[POINT].query(i).copy() for i in range(100)]
    spoilt[2][:4] = math.nan
    spoilt[9][0, 0] = math.inf
    with pytest.raises(TrainingDataError, match="not finite in 2 of 100 queries"):
        small().fit(queries(spoilt, weak=data.weak), seed=0)
