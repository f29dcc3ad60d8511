"""A linear probe against the pipeline it folds, and against its laws."""

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from foretell.calibration import FittedPlatt, auroc
from foretell.errors import InputError, TrainingDataError
from foretell.probes import FittedLinearProbe, LinearProbe
from foretell.records import ReadPoint

POINT = ReadPoint(1, "mean")


def rows_of(data):
    return data.activations[POINT], data.weak


@pytest.mark.parametrize(("n", "components", "l2"), [(200, 8, 1.0), (200, 24, 30.0), (40, 24, 5.0)])
def test_it_is_scikit_learns_scaler_pca_and_regression(data, n, components, l2):
    activations, succeeded = (column[:n] for column in rows_of(data))
    reference = make_pipeline(
        StandardScaler(),
        PCA(components, svd_solver="full"),
        LogisticRegression(C=1 / l2, solver="newton-cholesky", tol=1e-8),
    ).fit(activations.astype(np.float64), succeeded)
    fitted = LinearProbe(read_point=POINT, components=components, l2=l2).fit_rows(
        activations, succeeded
    )
    assert fitted.score(activations) == pytest.approx(
        reference.decision_function(activations.astype(np.float64)), abs=2e-3
    )


def test_a_randomised_reduction_agrees_with_the_exact_one(data, monkeypatch):
    activations, succeeded = rows_of(data)
    probe = LinearProbe(read_point=POINT, components=4)
    exact = probe.fit_rows(activations, succeeded)
    monkeypatch.setattr("foretell.probes._fitting._LARGEST_EXACT", 1)
    randomised = probe.fit_rows(activations, succeeded)
    assert np.corrcoef(exact.score(activations), randomised.score(activations))[0, 1] > 0.97
    again = probe.fit_rows(activations, succeeded)
    assert np.array_equal(randomised.weight, again.weight)


def test_fewer_rows_than_columns_reduce_to_the_same_axes(data):
    activations = data.activations[POINT][:22]
    succeeded = np.tile([0.0, 1.0], 11)
    wide = np.concatenate([activations, activations], axis=1)
    narrow_fit = LinearProbe(read_point=POINT, components=5, l2=2.0).fit_rows(
        activations, succeeded
    )
    # Each column twice doubles every distance squared, so half the coefficient says the same.
    wide_fit = LinearProbe(read_point=POINT, components=5, l2=4.0).fit_rows(wide, succeeded)
    assert wide_fit.score(wide) == pytest.approx(narrow_fit.score(activations), abs=1e-3)


def test_one_activation_scores_as_it_does_among_many(data):
    activations, succeeded = rows_of(data)
    fitted = LinearProbe(read_point=POINT).fit_rows(activations, succeeded)
    scores, chances = fitted.score(activations), fitted.p_success(activations)
    for i in range(5):
        assert fitted.score(activations[i]) == pytest.approx(scores[i], abs=1e-4)
        assert fitted.p_success(activations[i]) == pytest.approx(chances[i], abs=1e-4)
        assert isinstance(fitted.p_success(activations[i]), float)


def test_the_weight_lies_in_the_subspace_of_the_saved_projection(data):
    activations, succeeded = rows_of(data)
    fitted = LinearProbe(read_point=POINT, components=6).fit_rows(activations, succeeded)
    coordinates = fitted.coordinates(activations)
    assert coordinates.shape == (200, 6)
    assert coordinates.mean(axis=0) == pytest.approx(np.zeros(6), abs=1e-4)
    design = np.column_stack([coordinates, np.ones(200)])
    _, unexplained, *_ = np.linalg.lstsq(design, fitted.score(activations))
    assert unexplained[0] < 1e-6


def test_calibration_changes_the_chance_but_not_the_score(data):
    activations, succeeded = rows_of(data)
    fitted = LinearProbe(read_point=POINT).fit_rows(activations, succeeded)
    flat = fitted.calibrated(FittedPlatt(slope=0.0, intercept=math.log(3)))
    assert np.array_equal(flat.score(activations), fitted.score(activations))
    assert flat.p_success(activations) == pytest.approx(np.full(200, 0.75))
    assert fitted.p_success(activations[0]) == pytest.approx(
        1 / (1 + math.exp(-fitted.score(activations[0])))
    )


@settings(max_examples=20)
@given(scale=st.floats(0.01, 100), shift=st.floats(-100, 100))
def test_the_units_of_activations_do_not_matter(data, scale, shift):
    activations, succeeded = rows_of(data)
    probe = LinearProbe(read_point=POINT, components=4)
    moved = (activations * scale + shift).astype(np.float32)
    assert probe.fit_rows(moved, succeeded).score(moved) == pytest.approx(
        probe.fit_rows(activations, succeeded).score(activations), abs=0.05
    )


def test_a_weight_is_a_number_of_repetitions(data):
    # Repetition would move mean and spread, so the axes are those of the rows as given: a weight
    # speaks to the regression alone. Weight 2 everywhere is half the penalty.
    activations, succeeded = rows_of(data)
    doubled = LinearProbe(read_point=POINT, l2=2.0).fit_rows(
        activations, succeeded, np.full(200, 2.0)
    )
    plain = LinearProbe(read_point=POINT, l2=1.0).fit_rows(activations, succeeded)
    assert doubled.score(activations) == pytest.approx(plain.score(activations), abs=1e-3)


def test_a_row_without_weight_teaches_the_regression_nothing(data):
    activations, succeeded = rows_of(data)
    weights = np.ones(200)
    weights[:10] = 0
    flipped = succeeded.copy()
    flipped[:10] = 1 - flipped[:10]
    probe = LinearProbe(read_point=POINT)
    assert np.array_equal(
        probe.fit_rows(activations, succeeded, weights).weight,
        probe.fit_rows(activations, flipped, weights).weight,
    )


def test_a_rate_is_that_share_of_a_success(data):
    activations, succeeded = rows_of(data)
    rates = 0.1 + 0.8 * succeeded
    reference = LogisticRegression(solver="newton-cholesky", tol=1e-8)
    probe = LinearProbe(read_point=POINT, components=24).fit_rows(activations, rates)
    coordinates = probe.coordinates(activations)
    reference.fit(
        np.concatenate([coordinates, coordinates]),
        np.repeat([1, 0], 200),
        np.concatenate([rates, 1 - rates]),
    )
    assert probe.score(activations) == pytest.approx(
        reference.decision_function(coordinates), abs=2e-3
    )


def test_full_shrinkage_under_much_penalty_is_the_difference_of_means(data):
    activations, succeeded = rows_of(data)
    shrunk = LinearProbe(read_point=POINT, components=24, l2=1e8, shrink=1.0)
    coordinates = shrunk.fit_rows(activations, succeeded).coordinates(activations)
    means = [coordinates[succeeded == outcome].mean(axis=0) for outcome in (0, 1)]
    scores = shrunk.fit_rows(activations, succeeded).score(activations)
    assert np.corrcoef(scores, coordinates @ (means[1] - means[0]))[0, 1] > 0.9999


@pytest.mark.parametrize("n", [30, 60, 100])
def test_with_few_labels_shrinkage_does_not_hurt(make_data, n):
    """Mean AUROC on 500 new queries over eight draws, at a penalty that lets it overfit."""
    found = {0.0: [], 1.0: []}
    for seed in range(8):
        drawn = make_data(n + 500, seed=seed, width=96)
        train, test = drawn.take(np.arange(n)), drawn.take(np.arange(n, n + 500))
        for shrink, values in found.items():
            probe = LinearProbe(read_point=POINT, components=96, l2=10.0, shrink=shrink)
            values.append(auroc(probe.fit(train, seed=0).scores(test), test.weak))
    assert np.mean(found[1.0]) >= np.mean(found[0.0]) - 0.002


def test_components_never_exceed_rows_columns_or_rank(data):
    activations, succeeded = rows_of(data)
    few = LinearProbe(read_point=POINT, components=500).fit_rows(
        activations[:22], np.tile([0, 1], 11)
    )
    assert few.components == 21
    assert (
        LinearProbe(read_point=POINT, components=500).fit_rows(activations, succeeded).components
        == 24
    )
    flat = activations.copy()
    flat[:, 3:] = 7.0
    fitted = LinearProbe(read_point=POINT).fit_rows(flat, succeeded)
    assert fitted.components == 3
    assert not fitted.weight[3:].any()


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda a, y: (a[:0], y[:0]), "the training set is empty"),
        (lambda a, y: (a, y * 0), "none of the 200 labelled queries are successes"),
        (lambda a, y: (a, y * 0 + 1), "none of the 200 labelled queries are failures"),
        (lambda a, _: (a[:12], np.tile([0, 1], 6)), "6 successes and 6 failures; wanted at least"),
        (lambda a, y: (a, np.where(y == 1, np.nan, y)), "outcomes are not between 0 and 1"),
        (lambda a, y: (np.where(np.arange(200)[:, None] < 3, np.nan, a), y), "in 3 of 200"),
        (lambda a, y: (np.where(np.arange(200)[:, None] < 1, np.inf, a), y), "in 1 of 200"),
        (lambda a, y: (a[:50], y), r"shape \(50, 24\); wanted \(200, width\)"),
        (lambda a, y: (a[:, :, None], y), "wanted"),
        (lambda a, y: (a * 0, y), "all 200 queries are the same"),
        (lambda a, y: (a, np.column_stack([y, y])), "outcomes have 2 axes"),
    ],
)
def test_data_that_cannot_support_a_fit_is_refused_with_a_count(data, spoil, complaint):
    activations, succeeded = spoil(*rows_of(data))
    with pytest.raises(TrainingDataError, match=complaint):
        LinearProbe(read_point=POINT).fit_rows(activations, succeeded)


@pytest.mark.parametrize("weights", [[1.0], np.full(200, -1.0), np.full(200, np.nan)])
def test_weights_that_do_not_fit_are_refused(data, weights):
    with pytest.raises(TrainingDataError, match="weights"):
        LinearProbe(read_point=POINT).fit_rows(*rows_of(data), weights)


def test_weights_that_leave_one_class_are_refused(data):
    activations, succeeded = rows_of(data)
    with pytest.raises(TrainingDataError, match="all of one class"):
        LinearProbe(read_point=POINT).fit_rows(activations, succeeded, succeeded)


@pytest.mark.parametrize(
    "options", [{"components": 0}, {"l2": 0.0}, {"l2": math.inf}, {"shrink": 1.5}]
)
def test_settings_out_of_range_are_refused(options):
    with pytest.raises(InputError, match=next(iter(options))):
        LinearProbe(read_point=POINT, **options)


def tiny_probe(**changes):
    parts = {
        "weight": np.ones(3),
        "bias": 0.5,
        "projection": np.ones((3, 2)),
        "offset": np.zeros(2),
    }
    return FittedLinearProbe(read_point=POINT, **{**parts, **changes})


def test_activations_of_another_width_or_not_finite_are_refused():
    probe = tiny_probe()
    assert probe.score([1.0, 2.0, 3.0]) == 6.5
    with pytest.raises(InputError, match=r"shape \(4,\) do not fit a probe of width 3"):
        probe.score(np.ones(4))
    with pytest.raises(InputError, match="layer 1, mean is not finite"):
        probe.p_success(np.array([1.0, math.nan, 0.0]))
    with pytest.raises(InputError, match="1 of 2 activations"):
        probe.score(np.array([[1.0, math.inf, 0.0], [1.0, 1.0, 1.0]]))


@pytest.mark.parametrize(
    "changes",
    [
        {"weight": np.array([1.0, math.nan, 0.0])},
        {"bias": math.inf},
        {"projection": np.ones((2, 2))},
        {"offset": np.zeros(3)},
    ],
)
def test_parts_that_do_not_fit_together_make_no_probe(changes):
    with pytest.raises(InputError, match="probe's"):
        tiny_probe(**changes)


def test_a_number_that_is_several_is_refused():
    probe = tiny_probe()
    with pytest.raises(InputError, match=r"tensor 'bias' has shape \(2,\); wanted one number"):
        FittedLinearProbe.from_tensors(
            probe.settings(), {**probe.tensors(), "bias": np.zeros(2)}, probe.calibration
        )


def test_what_is_fitted_cannot_be_changed_by_accident():
    with pytest.raises(ValueError, match="read-only"):
        tiny_probe().weight[0] = 2


def test_fitting_without_scikit_learn_names_the_extra():
    program = """
import sys
sys.modules["sklearn"] = None
import numpy as np
from foretell.errors import TrainingDataError
from foretell.probes import LinearProbe
from foretell.records import ReadPoint
try:
    LinearProbe(read_point=ReadPoint(0)).fit_rows(np.ones((3, 2)), [0, 1, 1])
except TrainingDataError as error:
    assert "pip install 'foretell[train]'" in str(error), error
else:
    raise SystemExit("fitted without scikit-learn")
"""
    subprocess.run([sys.executable, "-c", program], check=True)
