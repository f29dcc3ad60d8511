"""An MLP probe: its application against a naive one and torch, its laws, what it learns."""

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foretell.calibration import FittedPlatt, auroc
from foretell.errors import InputError, TrainingDataError
from foretell.probes import FittedMlpProbe, FittedProbe, LinearProbe, MlpProbe, Probe
from foretell.records import ReadPoint, RoutingData

LOWER, UPPER = ReadPoint(1, "mean"), ReadPoint(2, "last")
CALIBRATION = FittedPlatt(slope=0.5, intercept=0.25)


def queries(activations, weak=(), weights=(), groups=None):
    n = len(next(iter(activations.values())))
    return RoutingData(
        domain=("geo",) * n,
        ids=tuple(f"q{i}" for i in range(n)),
        texts=("?",) * n,
        groups=tuple(f"g{i // 2}" for i in range(n)) if groups is None else groups,
        lengths=np.ones(n, dtype=np.int64),
        attributes=({},) * n,
        activations={
            point: np.asarray(rows, dtype=np.float32) for point, rows in activations.items()
        },
        weak=np.asarray(weak, dtype=np.float64),
        weights=np.asarray(weights, dtype=np.float64),
    )


def neither_alone(n, *, seed=0, **columns):
    """Success when the read points agree on a sign: neither knows, and no line tells."""
    generator = np.random.default_rng(seed)
    latent = generator.normal(size=(2, n))
    lower, upper = (
        np.outer(one, [1.0, -2, 0.5, 3]) + 0.01 * generator.normal(size=(n, 4)) + 20
        for one in latent
    )
    weak = latent.prod(axis=0) > 0
    return queries({LOWER: lower, UPPER: upper}, **{"weak": weak, **columns})


def made_up_probe(seed=0, **changes):
    generator = np.random.default_rng(seed)
    parts = {
        "read_points": (LOWER, UPPER),
        "projections": (generator.normal(size=(4, 3)), generator.normal(size=(5, 2))),
        "offsets": (generator.normal(size=3), generator.normal(size=2)),
        "weights": (
            generator.normal(size=(2, 5, 4)),
            generator.normal(size=(2, 4, 3)),
            generator.normal(size=(2, 3, 1)),
        ),
        "biases": (
            generator.normal(size=(2, 4)),
            generator.normal(size=(2, 3)),
            generator.normal(size=(2, 1)),
        ),
        "calibration": CALIBRATION,
    }
    return FittedMlpProbe(**{**parts, **changes})


def made_up_queries(n=7, seed=0):
    generator = np.random.default_rng(seed)
    return queries({LOWER: generator.normal(size=(n, 4)), UPPER: generator.normal(size=(n, 5))})


@pytest.fixture
def brief(monkeypatch):
    """For what a few epochs show as well as many."""
    from foretell.probes import _torch_fitting

    monkeypatch.setattr(_torch_fitting, "_MOST_EPOCHS", 3)


def small(**changes):
    """Settings that fit in a moment."""
    return MlpProbe(**{"read_points": (LOWER, UPPER), "members": 2, "hidden": (16,), **changes})


def test_it_is_one_of_the_probes():
    assert isinstance(small(), Probe)
    assert isinstance(made_up_probe(), FittedProbe)
    assert made_up_probe().kind == MlpProbe(read_points=(LOWER,)).kind == "mlp"
    assert not made_up_probe().reads_first_token
    assert made_up_probe().members == 2


def test_its_score_is_the_mean_over_members_of_one_network_after_another():
    probe, data = made_up_probe(), made_up_queries()
    for i, score in enumerate(probe.scores(data)):
        coordinates = []
        for point, projection, offset in zip(
            probe.read_points, probe.projections, probe.offsets, strict=True
        ):
            coordinates += list(data.activations[point][i] @ projection + offset)
        logits = []
        for member in range(2):
            x = np.array(coordinates)
            for layer in range(3):
                x = x @ probe.weights[layer][member] + probe.biases[layer][member]
                x = x if layer == 2 else np.maximum(x, 0)
            logits.append(x[0])
        assert score == pytest.approx(np.mean(logits), abs=1e-4)


@settings(max_examples=25)
@given(rows=st.lists(st.integers(0, 6), min_size=1, max_size=12))
def test_a_query_scores_the_same_in_any_company(rows):
    probe, data = made_up_probe(), made_up_queries()
    chosen = probe.scores(data.take(np.array(rows)))
    assert chosen == pytest.approx(probe.scores(data)[rows], abs=1e-4)


def test_chances_are_calibrated_scores():
    probe, data = made_up_probe(), made_up_queries()
    assert np.array_equal(probe.chances(data), CALIBRATION.p(probe.scores(data)))
    flat = probe.calibrated(FittedPlatt(slope=0.0, intercept=math.log(3)))
    assert flat.chances(data) == pytest.approx(np.full(7, 0.75))


def test_it_is_made_again_from_its_settings_and_tensors():
    probe, data = made_up_probe(), made_up_queries()
    again = FittedMlpProbe.from_tensors(probe.settings(), probe.tensors(), CALIBRATION)
    assert np.array_equal(again.scores(data), probe.scores(data))
    assert again.settings() == probe.settings()
    assert again.calibration == CALIBRATION


@pytest.mark.parametrize(
    "missing", ["projection_layer1_mean", "offset_layer2_last", "weight_1", "bias_0"]
)
def test_a_missing_tensor_is_refused(missing):
    probe = made_up_probe()
    tensors = {name: array for name, array in probe.tensors().items() if name != missing}
    with pytest.raises(InputError):
        FittedMlpProbe.from_tensors(probe.settings(), tensors, CALIBRATION)


@pytest.mark.parametrize(
    "changes",
    [
        {"read_points": (LOWER,)},
        {"read_points": (UPPER, LOWER)},
        {"read_points": (LOWER, LOWER)},
        {"read_points": (), "projections": (), "offsets": ()},
        {"projections": (np.ones((4, 3)), np.ones(5))},
        {"projections": (np.ones((4, 3)), np.ones((5, 3)))},
        {"offsets": (np.ones(3), np.ones(3))},
        {"weights": (), "biases": ()},
        {"weights": (np.ones((2, 5, 4)), np.ones((2, 4, 1)))},
        {"weights": (np.ones((2, 5, 1)),), "biases": (np.ones((1, 1)),)},
        {"weights": (np.ones((2, 4, 1)),), "biases": (np.ones((2, 1)),)},
        {"weights": (np.ones((2, 5, 2)),), "biases": (np.ones((2, 2)),)},
        {"weights": (np.ones((5, 1)),), "biases": (np.ones(1),)},
        {"weights": (np.float32(1),), "biases": (np.float32(1),)},
        {"weights": (np.ones((0, 5, 1)),), "biases": (np.ones((0, 1)),)},
    ],
)
def test_parts_that_do_not_fit_together_make_no_probe(changes):
    with pytest.raises(InputError, match="do not fit together"):
        made_up_probe(**changes)


def test_parts_that_are_not_finite_make_no_probe():
    with pytest.raises(InputError, match="offsets holds 1 numbers that are not finite"):
        made_up_probe(offsets=(np.array([0, math.nan, 0]), np.zeros(2)))


def test_what_is_fitted_cannot_be_changed_by_accident():
    with pytest.raises(ValueError, match="read-only"):
        made_up_probe().weights[0][0, 0, 0] = 2


def test_queries_that_it_cannot_read_are_refused():
    probe, data = made_up_probe(), made_up_queries()
    with pytest.raises(InputError, match="reads layer2_last"):
        probe.scores(queries({LOWER: data.activations[LOWER]}))
    with pytest.raises(InputError, match=r"shape \(7, 4\) do not fit a probe of width 5"):
        probe.scores(queries(dict.fromkeys((LOWER, UPPER), data.activations[LOWER])))
    for bad in (math.inf, -math.inf, math.nan):
        spoilt = data.activations[UPPER].copy()
        spoilt[3, 0] = bad
        with pytest.raises(InputError, match="layer 2, last are not finite in 1 of 7 queries"):
            probe.scores(queries({LOWER: data.activations[LOWER], UPPER: spoilt}))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"read_points": ()}, r"got read points \(none\)"),
        ({"read_points": (ReadPoint(1, "tokens"),)}, "reads pooled activations"),
        ({"components": 0}, "components"),
        ({"hidden": (8, 0)}, "hidden"),
        ({"dropout": 1.0}, "dropout"),
        ({"weight_decay": -1.0}, "weight_decay"),
        ({"weight_decay": math.inf}, "weight_decay"),
        ({"members": 0}, "members"),
    ],
)
def test_settings_out_of_range_are_refused(changes, complaint):
    with pytest.raises(InputError, match=complaint):
        small(**changes)


def test_read_points_are_kept_in_order_of_layer():
    assert MlpProbe(read_points=(UPPER, LOWER, UPPER)).read_points == (LOWER, UPPER)


def test_a_probe_is_read_and_applied_without_torch():
    program = """
import sys
import numpy as np
from foretell.probes import FittedAttentionProbe, FittedMlpProbe
from foretell.records import ReadPoint, RoutingData, TokenActivations
mean, tokens = ReadPoint(0, "mean"), ReadPoint(0, "tokens")
rows = np.ones((1, 2), dtype=np.float32)
data = RoutingData(
    domain=("d",), ids=("a",), texts=("",), groups=("a",), lengths=np.ones(1, dtype=np.int64),
    attributes=({},), activations={mean: rows}, sequences={tokens: TokenActivations.stack([rows])},
)
ones = np.ones((1, 2, 1))
mlp = FittedMlpProbe(
    read_points=(mean,), projections=(np.eye(2),), offsets=(np.zeros(2),), weights=(ones,),
    biases=(np.zeros((1, 1)),),
)
attention = FittedAttentionProbe(
    read_point=tokens, variant="softmax", queries=ones, values=ones, offsets=np.zeros((1, 1)),
    bias=0,
)
assert mlp.scores(data) == attention.scores(data) == 2
assert not {"torch", "sklearn", "scipy"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_fitting_without_torch_names_the_extra():
    # SciPy asks sys.modules for torch, so a None there is not how an absent one looks.
    program = """
import sys
class Absent:
    def find_spec(self, name, *_):
        if name == "torch":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
import numpy as np
from foretell.errors import TrainingDataError
from foretell.probes import MlpProbe
from foretell.records import ReadPoint, RoutingData
point = ReadPoint(0)
data = RoutingData(
    domain=("d",), ids=("a",), texts=("",), groups=("a",), lengths=np.ones(1, dtype=np.int64),
    attributes=({},), activations={point: np.ones((1, 2), dtype=np.float32)}, weak=np.ones(1),
)
try:
    MlpProbe(read_points=(point,)).fit(data, seed=0)
except TrainingDataError as error:
    assert "pip install 'foretell[torch]'" in str(error), error
else:
    raise SystemExit("fitted without torch")
"""
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.torch
def test_it_learns_what_no_line_can_tell_apart():
    train, test = neither_alone(200), neither_alone(200, seed=1)
    probe = small(components=1, dropout=0.0, weight_decay=0.01).fit(train, seed=0)
    for point in (LOWER, UPPER):
        linear = LinearProbe(read_point=point).fit(train, seed=0)
        assert auroc(linear.scores(test), test.weak) < 0.65
    assert auroc(probe.scores(test), test.weak) > 0.9


@pytest.mark.torch
@pytest.mark.parametrize("hidden", [(), (16,), (8, 4)])
def test_numpy_foretells_what_the_network_in_torch_does(monkeypatch, hidden):
    import torch

    from foretell.probes import _torch_fitting

    seen = []

    def made_up_training(network, *_, **__):
        for parameter in network.parameters():
            parameter.data = torch.randn_like(parameter)
        seen.append(network.eval())

    monkeypatch.setattr(_torch_fitting, "_train", made_up_training)
    data = neither_alone(100)
    probe = small(hidden=hidden, members=3).fit(data, seed=0)
    with torch.no_grad():
        expected = seen[0](torch.arange(100)).mean(0).numpy()
    # Activations lie around 20 with coordinates around 1: float32 leaves five digits.
    assert probe.scores(data) == pytest.approx(expected, rel=1e-3, abs=5e-3)


@pytest.mark.torch
@pytest.mark.usefixtures("brief")
def test_the_same_seed_gives_the_same_probe_and_leaves_torch_as_it_was():
    import torch

    data, probe = neither_alone(100), small()
    threads, chance = torch.get_num_threads(), torch.random.get_rng_state()
    first, second, other = (probe.fit(data, seed=seed).scores(data) for seed in (3, 3, 4))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.random.get_rng_state(), chance)


@pytest.mark.torch
@pytest.mark.usefixtures("brief")
def test_a_query_without_weight_teaches_nothing_and_weights_have_no_unit():
    data, probe = neither_alone(100), small()
    weights = np.arange(100) % 4 + 0.0
    flipped = np.where(weights == 0, 1 - data.weak, data.weak)
    plain, other, doubled = (
        probe.fit(neither_alone(100, weak=weak, weights=w), seed=0).scores(data)
        for weak, w in ((data.weak, weights), (flipped, weights), (data.weak, 2 * weights))
    )
    assert np.array_equal(plain, other)
    assert plain == pytest.approx(doubled, abs=1e-4)


@pytest.mark.torch
def test_a_rate_is_learnt_as_a_chance():
    # With nothing else to see, the chance of every query is the mean rate.
    generator = np.random.default_rng(0)
    data = queries({LOWER: generator.normal(size=(200, 4))}, weak=np.tile([0.2, 0.4], 100))
    chances = small(read_points=(LOWER,)).fit(data, seed=0).chances(data)
    assert chances.mean() == pytest.approx(0.3, abs=0.05)


@pytest.mark.torch
@settings(max_examples=20, deadline=None)
@given(groups=st.integers(2, 12), members=st.integers(1, 7))
def test_what_a_member_stops_by_shares_no_group_with_what_it_learns_from(groups, members):
    from foretell.probes._torch_fitting import _plan_lessons

    data = queries(
        {LOWER: np.ones((60, 1))},
        weak=np.arange(60) % 2,
        groups=tuple(f"g{i % groups}" for i in range(60)),
    )
    held_out = _plan_lessons(data, members=members, seed=0).held_out
    assert held_out.shape == (members, 60)
    group = np.array(data.groups)
    for rows in held_out:
        assert rows.any()
        assert not set(group[rows]) & set(group[~rows])


@pytest.mark.torch
@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        ({"weak": np.ones(100)}, "none of the 100 labelled queries are failures"),
        ({"weak": np.full(100, np.nan)}, "not between 0 and 1"),
        ({"weights": -np.ones(100)}, "weights"),
        ({"weights": np.arange(100) < 15}, "wanted at least 10 of each"),
        ({"groups": ("one",) * 100}, "1 groups, too few for 2 folds"),
    ],
)
def test_data_that_cannot_support_a_fit_is_refused(spoil, complaint):
    with pytest.raises(TrainingDataError, match=complaint):
        small().fit(neither_alone(100, **spoil), seed=0)


@pytest.mark.torch
def test_activations_that_cannot_support_a_fit_are_refused():
    data = neither_alone(100)
    with pytest.raises(TrainingDataError, match="'layer9_last' is not in the training set"):
        small(read_points=(ReadPoint(9),)).fit(data, seed=0)
    spoilt = data.activations[LOWER].copy()
    spoilt[:3] = math.nan
    with pytest.raises(TrainingDataError, match="not finite in 3 of 100"):
        small(read_points=(LOWER,)).fit(queries({LOWER: spoilt}, weak=data.weak), seed=0)
