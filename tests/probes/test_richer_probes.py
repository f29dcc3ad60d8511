"""Several read points, a mix of layers, and fusion: what each adds, and that it is saved whole."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from foretell.calibration import FittedPlatt, auroc, log_loss
from foretell.errors import InputError, TrainingDataError
from foretell.probes import (
    FittedFusionProbe,
    FittedMixProbe,
    FittedProbe,
    FittedSeveralProbe,
    FusionProbe,
    LinearProbe,
    MixProbe,
    Probe,
    SeveralProbe,
)
from foretell.probes._kinds import from_tensors
from foretell.probes._mix_fitting import fit_shares
from foretell.records import ReadPoint

POINTS = (ReadPoint(0, "mean"), ReadPoint(1, "mean"), ReadPoint(2, "mean"))
KNOWS = POINTS[1]


def with_first_token(data, *, seed=5, missing=0.1):
    """An entropy that tells something of its own, unknown for some queries."""
    generator = np.random.default_rng(seed)
    entropy = 2 - data.weak + generator.normal(size=len(data))
    entropy[generator.random(len(data)) < missing] = np.nan
    return replace(
        data,
        first_entropy=entropy,
        first_margin=generator.random(len(data)),
        lengths=generator.integers(5, 50, len(data)),
    )


def unfitted():
    linear = LinearProbe(read_point=KNOWS, components=8, l2=10.0)
    return {
        "linear": linear,
        "several": SeveralProbe(read_points=POINTS, components=8, l2=10.0),
        "several, concatenated": SeveralProbe(
            read_points=POINTS, components=8, l2=10.0, join="concatenate"
        ),
        "mix": MixProbe(read_points=POINTS, components=8, l2=10.0, folds=3),
        "fusion": FusionProbe(base=linear, folds=3),
        "fusion of a mix": FusionProbe(
            base=MixProbe(read_points=POINTS, components=8, l2=10.0, folds=3), folds=3
        ),
    }


every_kind = pytest.mark.parametrize("name", list(unfitted()))


@pytest.fixture(scope="module")
def drawn(make_data):
    data = with_first_token(make_data(600, seed=2))
    return replace(data, domain=("geo", "maths") * 300)


@pytest.fixture(scope="module")
def rich(drawn):
    return drawn.take(np.arange(240))


@pytest.fixture(scope="module")
def unseen(drawn):
    return drawn.take(np.arange(240, 600))


@pytest.fixture(scope="module")
def fitted(rich):
    return {name: probe.fit(rich, seed=0) for name, probe in unfitted().items()}


@every_kind
def test_every_kind_is_a_probe_and_fits_to_one(name, fitted):
    probe = unfitted()[name]
    assert isinstance(probe, Probe)
    assert isinstance(fitted[name], FittedProbe)
    assert fitted[name].kind == probe.kind
    assert list(fitted[name].read_points) == sorted(fitted[name].read_points)
    assert fitted[name].reads_first_token == name.startswith("fusion")


@every_kind
def test_it_ranks_queries_it_has_not_seen(name, fitted, unseen):
    assert auroc(fitted[name].scores(unseen), unseen.weak) > 0.8


@every_kind
def test_what_is_saved_comes_back_the_same(name, fitted, rich):
    probe = fitted[name].calibrated(FittedPlatt(slope=0.7, intercept=0.2))
    again = from_tensors(probe.kind, probe.settings(), probe.tensors(), probe.calibration)
    assert np.array_equal(again.scores(rich), probe.scores(rich))
    assert np.array_equal(again.chances(rich), probe.chances(rich))
    assert again.settings() == probe.settings()


@every_kind
def test_a_missing_or_spoilt_tensor_is_refused(name, fitted):
    probe = fitted[name]
    for lost in probe.tensors():
        tensors = {key: array for key, array in probe.tensors().items() if key != lost}
        with pytest.raises(InputError, match="no tensor"):
            from_tensors(probe.kind, probe.settings(), tensors, probe.calibration)
        tensors = {**probe.tensors(), lost: np.full_like(probe.tensors()[lost], np.nan)}
        if tensors[lost].size:
            with pytest.raises(InputError, match="finite"):
                from_tensors(probe.kind, probe.settings(), tensors, probe.calibration)
    with pytest.raises(InputError, match="no setting"):
        from_tensors(probe.kind, {}, probe.tensors(), probe.calibration)


@every_kind
def test_a_row_alone_scores_as_in_its_batch_and_order_does_not_matter(name, fitted, rich):
    scores = fitted[name].scores(rich)
    alone = [fitted[name].scores(rich.take(np.array([row])))[0] for row in range(5)]
    assert alone == pytest.approx(scores[:5], abs=1e-4)
    backwards = np.arange(len(rich))[::-1].copy()
    assert fitted[name].scores(rich.take(backwards)) == pytest.approx(scores[::-1], abs=1e-4)
    assert fitted[name].scores(rich.take(np.array([], dtype=int))).shape == (0,)


@every_kind
def test_the_same_rows_and_seed_give_the_same_probe(name, fitted, rich):
    again = unfitted()[name].fit(rich, seed=0)
    assert np.array_equal(again.scores(rich), fitted[name].scores(rich))


@every_kind
def test_a_read_point_that_is_not_there_is_refused(name, fitted, rich):
    blind = replace(rich, activations={ReadPoint(7): rich.activations[KNOWS]})
    with pytest.raises(InputError, match="the queries hold activations at layer7_last"):
        fitted[name].scores(blind)
    with pytest.raises(TrainingDataError, match="is not in the training set"):
        unfitted()[name].fit(blind, seed=0)


@every_kind
def test_activations_that_are_not_finite_are_refused(name, fitted, rich):
    spoilt = rich.activations[KNOWS].copy()
    spoilt[:3, 0] = np.inf
    bad = replace(rich, activations={**rich.activations, KNOWS: spoilt})
    with pytest.raises(InputError, match="3 of 240 activations at layer 1, mean not finite"):
        fitted[name].scores(bad)
    with pytest.raises(TrainingDataError, match=r"not finite in \d of"):
        unfitted()[name].fit(bad, seed=0)


@every_kind
def test_the_outcome_of_a_row_without_weight_does_not_matter(name, rich):
    weights = np.ones(240)
    weights[:20] = 0
    # On the same side of a half, so that the folds stay as they are.
    softer = np.where(np.arange(240) < 20, 0.2 + 0.6 * rich.weak, rich.weak)
    probes = [
        unfitted()[name].fit(replace(rich, weak=weak, weights=weights), seed=0)
        for weak in (rich.weak, softer)
    ]
    assert np.array_equal(probes[0].scores(rich), probes[1].scores(rich))


def test_an_average_is_the_mean_of_its_probes_log_odds(fitted, rich):
    probe = unfitted()["several"]
    each = [probe.at(point).fit(rich, seed=0).scores(rich) for point in POINTS]
    assert fitted["several"].scores(rich) == pytest.approx(np.mean(each, axis=0), abs=1e-4)


def test_concatenating_one_read_point_is_the_linear_probe(rich):
    one = SeveralProbe(
        read_points=(KNOWS,), components=8, l2=10.0, shrink=1.0, join="concatenate"
    ).fit(rich, seed=0)
    linear = LinearProbe(read_point=KNOWS, components=8, l2=10.0, shrink=1.0).fit(rich, seed=0)
    assert one.scores(rich) == pytest.approx(linear.scores(rich), abs=1e-4)


def test_read_points_are_sorted_and_named_once():
    probe = SeveralProbe(read_points=(POINTS[2], POINTS[0], POINTS[2]))
    assert probe.read_points == (POINTS[0], POINTS[2])


def test_a_mix_gives_its_weight_to_the_layer_that_knows(fitted):
    mix = fitted["mix"]
    assert math.fsum(mix.shares) == pytest.approx(1)
    assert all(share >= 0.02 for share in mix.shares)
    assert max(mix.shares) == mix.shares[mix.read_points.index(KNOWS)]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 500), columns=st.integers(1, 5))
def test_shares_are_convex_and_no_worse_than_any_one_column(seed, columns):
    generator = np.random.default_rng(seed)
    outcomes = (generator.random(150) < 0.5).astype(float)
    outcomes[:2] = 0, 1
    signal = generator.random(columns)
    scores = np.outer(2 * outcomes - 1, signal) + generator.normal(size=(150, columns))
    weights = generator.integers(1, 3, 150).astype(float)
    found = fit_shares(scores, outcomes, weights)
    assert math.fsum(found.shares) == pytest.approx(1)
    assert all(share == 0 or share >= 0.019 for share in found.shares)

    def loss(log_odds):
        return log_loss(1 / (1 + np.exp(-log_odds)), outcomes, weights)

    mixed = loss(found.mix(scores))
    for column in scores.T:
        alone = fit_shares(column[:, None], outcomes, weights)
        assert mixed <= loss(alone.mix(column[:, None])) + 2e-3  # what small shares may cost


def test_shares_are_those_of_a_general_solver():
    generator = np.random.default_rng(3)
    outcomes = (generator.random(400) < 0.4).astype(float)
    scores = np.outer(2 * outcomes - 1, [1.0, 0.8, 0.0]) + generator.normal(size=(400, 3))
    found = fit_shares(scores, outcomes, np.ones(400))

    def loss(at):
        log_odds = at[3] * scores @ at[:3] + at[4]
        return np.mean(np.logaddexp(0, log_odds) - outcomes * log_odds)

    best = minimize(
        loss,
        [0.3, 0.3, 0.4, 1, 0],
        bounds=[(0, 1)] * 3 + [(0, None), (None, None)],
        constraints={"type": "eq", "fun": lambda at: sum(at[:3]) - 1},
        method="SLSQP",
        options={"ftol": 1e-12},
    )
    assert (
        loss([*found.shares, found.scale, found.bias]) <= best.fun + 1e-3
    )  # what the small share costs


def test_columns_that_rank_backwards_get_no_say():
    outcomes = np.tile([0.0, 1.0], 50)
    found = fit_shares(np.column_stack([-outcomes, -outcomes]), outcomes, np.ones(100))
    assert (found.shares, found.scale) == ((0.5, 0.5), 0.0)
    assert found.bias == pytest.approx(0, abs=1e-6)


def test_fusion_learns_from_entropy_what_activations_do_not_show(fitted, unseen):
    linear, fusion = (auroc(fitted[n].scores(unseen), unseen.weak) for n in ("linear", "fusion"))
    assert fusion > linear + 0.01


def test_fusion_weighs_the_base_by_scores_it_has_not_been_fitted_on(rich):
    """Of labels at random the base knows its own rows by heart, and the fusion must not care."""
    labels = np.random.default_rng(0).integers(0, 2, 240).astype(float)
    memory = LinearProbe(read_point=KNOWS, components=24, l2=0.01)
    fusion = FusionProbe(base=memory, folds=5).fit(replace(rich, weak=labels), seed=0)
    assert auroc(fusion.base.scores(rich), labels) > 0.6
    assert abs(fusion.base_weight) < 0.35


def test_an_unknown_entropy_counts_as_the_mean_of_training(fitted, rich):
    fusion = fitted["fusion"]
    unknown = replace(rich, first_entropy=np.full(240, np.nan))
    average = replace(
        rich, first_entropy=np.full(240, fusion.centres[fusion.signals.index("first_entropy")])
    )
    assert fusion.scores(unknown) == pytest.approx(fusion.scores(average))


def test_an_unseen_domain_adds_nothing(fitted, rich):
    fusion = fitted["fusion"]
    assert fusion.domains == ("geo", "maths")
    elsewhere = fusion.scores(replace(rich, domain=("law",) * 240))
    own = fusion.domain_weights[[fusion.domains.index(domain) for domain in rich.domain]]
    assert fusion.scores(rich) - elsewhere == pytest.approx(own)


def test_a_column_that_is_absent_or_constant_is_not_fused(rich):
    bare = replace(
        rich,
        first_entropy=np.empty(0),
        first_margin=np.full(240, np.nan),
        lengths=np.full(240, 7),
        domain=("geo",) * 240,
    )
    fusion = FusionProbe(base=LinearProbe(read_point=KNOWS), folds=3).fit(bare, seed=0)
    assert (fusion.signals, fusion.domains) == ((), ())
    assert not fusion.reads_first_token


def test_queries_without_the_fused_column_are_refused(fitted, rich):
    with pytest.raises(InputError, match="reads first_entropy, which these queries lack"):
        fitted["fusion"].scores(replace(rich, first_entropy=np.empty(0)))


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: SeveralProbe(read_points=()), "got none"),
        (lambda: SeveralProbe(read_points=POINTS, l2=0.0), "l2 must be"),
        (lambda: SeveralProbe(read_points=POINTS, join="sum"), "unknown join 'sum'"),
        (lambda: MixProbe(read_points=()), "no read points"),
        (lambda: MixProbe(read_points=POINTS, components=0), "components must be"),
        (lambda: FusionProbe(base=LinearProbe(read_point=KNOWS), l2=-1.0), "l2 must be"),
    ],
)
def test_settings_out_of_range_are_refused(make, complaint):
    with pytest.raises(InputError, match=complaint):
        make()


@pytest.mark.parametrize("kind", [MixProbe, FusionProbe])
def test_fewer_groups_than_folds_are_refused(kind, rich):
    probe = (
        MixProbe(read_points=POINTS)
        if kind is MixProbe
        else FusionProbe(base=LinearProbe(read_point=KNOWS))
    )
    with pytest.raises(TrainingDataError, match="2 groups, too few for 5 folds"):
        probe.fit(replace(rich, groups=("a", "b") * 120), seed=0)


ONE = (np.ones(3, np.float32),)


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: FittedSeveralProbe(read_points=(), weights=(), bias=0.0), "read points"),
        (
            lambda: FittedSeveralProbe(read_points=POINTS[:2], weights=ONE, bias=0.0),
            "1 weights do not fit",
        ),
        (
            lambda: FittedSeveralProbe(
                read_points=(POINTS[1], POINTS[0]), weights=ONE * 2, bias=0.0
            ),
            "in order of layer",
        ),
        (
            lambda: FittedSeveralProbe(
                read_points=POINTS[:1], weights=(np.ones((2, 2)),), bias=0.0
            ),
            "shapes",
        ),
        (lambda: FittedSeveralProbe(read_points=POINTS[:1], weights=ONE, bias=math.inf), "bias"),
        (
            lambda: FittedMixProbe(
                read_points=POINTS[:2], weights=ONE * 2, bias=0.0, shares=(0.5, 0.6)
            ),
            "shares",
        ),
    ],
)
def test_parts_that_do_not_fit_together_make_no_probe(make, complaint):
    with pytest.raises(InputError, match=complaint):
        make()


def test_a_fusion_of_signals_that_nobody_knows_is_refused(fitted):
    fusion = fitted["fusion"]
    settings = {**fusion.settings(), "signals": ["mood", "first_margin", "log_length"]}
    with pytest.raises(InputError, match="unknown signals mood"):
        FittedFusionProbe.from_tensors(settings, fusion.tensors(), fusion.calibration)
