"""Queries like none in training are told from the others, and seldom the others from themselves."""

import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.covariance import LedoitWolf
from sklearn.neighbors import NearestNeighbors

from foretell.errors import InputError, TrainingDataError
from foretell.probes import FittedGate, fit_gate, load_probe, save_probe
from foretell.probes._gate import _ARRAYS, conformal_p_values
from foretell.records import ReadPoint

POINT = ReadPoint(1, "mean")
WIDTH = 24


def gaussian(generator, n):
    return generator.normal(size=(n, WIDTH)) * np.linspace(0.2, 3, WIDTH) + 5


def heavy_tailed(generator, n):
    return generator.standard_t(2, size=(n, WIDTH))


def clustered(generator, n):
    centres = 20 * np.eye(WIDTH)[:4]
    return centres[generator.integers(4, size=n)] + generator.normal(size=(n, WIDTH))


def low_rank(generator, n):
    """Like real activations: most of the variance in a few directions."""
    axes = np.random.default_rng(99).normal(size=(4, WIDTH))
    return generator.normal(size=(n, 4)) @ axes + 0.1 * generator.normal(size=(n, WIDTH))


WORLDS = [gaussian, heavy_tailed, clustered, low_rank]


def in_every_world(test):
    return pytest.mark.parametrize("draw", WORLDS, ids=lambda draw: draw.__name__)(test)


def drawn(draw, n, seed):
    return draw(np.random.default_rng(seed), n).astype(np.float32)


def gate_of(draw, n=300, seed=0, **options):
    return fit_gate(drawn(draw, n, seed), POINT, seed=seed, **{"components": 8, **options})


@pytest.fixture(scope="module")
def gate():
    return gate_of(low_rank)


@in_every_world
def test_a_p_value_of_a_training_like_query_is_at_most_a_in_a_share_a_of_cases(draw):
    """Over draws of training and test queries, which is what the guarantee is about."""
    p = np.array(
        [gate_of(draw, seed=seed).p_value(drawn(draw, 200, 1000 + seed)) for seed in range(12)]
    )
    for level in (0.05, 0.1, 0.2, 0.5):
        by_gate = (p <= level).mean(axis=1)
        noise = by_gate.std(ddof=1) / np.sqrt(len(by_gate))
        assert by_gate.mean() <= level + 2 * noise
        assert by_gate.mean() >= level / 4  # nor is it idle


@in_every_world
def test_the_measured_false_alarms_are_those_of_new_queries(draw):
    gate = gate_of(draw, n=900)
    measured = gate.settings.false_alarms
    assert measured.n == 900
    assert measured.low <= measured.value <= measured.high
    new = np.mean(gate.outside(drawn(draw, 2000, 7)))
    assert measured.value == pytest.approx(new, abs=0.035)


@in_every_world
def test_a_domain_in_other_directions_is_declined(draw):
    generator = np.random.default_rng(5)
    training = np.zeros((400, 2 * WIDTH), np.float32)
    training[:, :WIDTH] = drawn(draw, 400, 0)
    training[:, WIDTH:] = 0.1 * generator.normal(size=(400, WIDTH))
    foreign = training.copy()
    foreign[:, WIDTH:] += 2 * generator.normal(size=WIDTH)
    gate = fit_gate(training, POINT, seed=0, components=8)
    assert np.mean(gate.outside(foreign)) >= 0.9


def test_the_empty_space_between_clusters_is_foreign():
    """Its Mahalanobis distance is the least of all; only the neighbours are far."""
    generator = np.random.default_rng(0)
    corners = generator.choice([-1.0, 1.0], size=(600, 2))
    training = (corners + 0.05 * generator.normal(size=(600, 2))).astype(np.float32)
    between = 0.05 * generator.normal(size=(100, 2)).astype(np.float32)
    gate = fit_gate(training, POINT, seed=0)
    assert np.mean(gate.outside(between)) > 0.95
    assert gate.distances(between)[0].mean() < gate.distances(training)[0].mean()


def test_distances_are_those_of_scikit_learn():
    rows, new = drawn(gaussian, 300, 0), drawn(gaussian, 50, 1)
    gate = fit_gate(rows, POINT, seed=0, components=WIDTH, neighbours=5)
    mahalanobis, neighbour = gate.distances(new)

    def coordinates(activations):
        return ((activations - gate.mean) * gate.scale @ gate.axes).astype(np.float64)

    seen = gate.references @ np.linalg.inv(gate.whitening.astype(np.float64))
    reference = LedoitWolf(assume_centered=True).fit(seen)
    assert mahalanobis**2 == pytest.approx(reference.mahalanobis(coordinates(new)), rel=1e-3)

    white = coordinates(new) @ gate.whitening
    found, _ = NearestNeighbors(n_neighbors=5).fit(gate.references).kneighbors(white)
    assert neighbour == pytest.approx(found[:, -1], rel=1e-3)


def test_outside_of_the_subspace_one_variance_holds_for_all_directions(gate):
    """By Pythagoras: what the axes do not catch, over its variance."""
    new = drawn(low_rank, 50, 1)
    standard = ((new - gate.mean) * gate.scale).astype(np.float64)
    inside = standard @ gate.axes
    rest = standard - inside @ gate.axes.T
    white = inside @ gate.whitening
    squared = (white**2).sum(axis=1) + (rest**2).sum(axis=1) / gate.settings.outside_variance
    assert gate.distances(new)[0] ** 2 == pytest.approx(squared, rel=1e-3)


@given(st.lists(st.floats(0, 10, width=32), min_size=1, max_size=30), st.floats(0, 10, width=32))
def test_a_conformal_p_value_is_the_share_at_least_as_far(calibration, distance):
    column = np.sort(np.array(calibration, np.float32))
    counted = sum(each >= np.float32(distance) for each in column)
    p = conformal_p_values(np.array([distance], np.float32), column)
    assert p[0] == (1 + counted) / (1 + len(column))


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.floats(1, 50))
def test_moving_away_along_a_line_never_looks_more_familiar(gate, seed, factor):
    generator = np.random.default_rng(seed)
    direction = generator.normal(size=WIDTH).astype(np.float32) / gate.scale
    near, far = gate.mean + direction * 20, gate.mean + direction * 20 * np.float32(factor)
    assert gate.p_value(far) <= gate.p_value(near)


def test_one_query_is_answered_as_in_a_batch_of_any_size(gate):
    rows = drawn(low_rank, 1500, 3)
    p = gate.p_value(rows)
    assert p.shape == (1500,)
    assert ((p > 0) & (p <= 1)).all()
    assert np.array_equal(gate.outside(rows), p <= 0.05)
    singles = [gate.p_value(row) for row in rows[:100]]
    assert all(isinstance(single, float) for single in singles)
    # Sums of another order round otherwise, which can move a distance past one neighbour.
    assert p[:100] == pytest.approx(singles, abs=4.1 / gate.settings.n_calibration)
    assert gate.p_value(rows[:0]).shape == (0,)
    assert isinstance(gate.outside(rows[0]), bool)


def test_the_same_rows_and_seed_give_the_same_gate():
    one, other = gate_of(gaussian), gate_of(gaussian)
    assert one.settings == other.settings
    assert all(np.array_equal(one.tensors()[k], other.tensors()[k]) for k in one.tensors())
    assert not np.array_equal(one.references, gate_of(gaussian, seed=1).references)


def test_no_group_is_both_fitted_to_and_calibrated_on():
    """Twins of a fitted query lie at no distance: were they to calibrate, all else were foreign."""
    generator = np.random.default_rng(0)
    groups = np.repeat([f"g{i}" for i in range(200)], 5)
    templates = drawn(gaussian, 200, 0)
    twins = (np.repeat(templates, 5, axis=0) + 0.01 * generator.normal(size=(1000, WIDTH))).astype(
        np.float32
    )
    new = drawn(gaussian, 500, 1)
    aware = fit_gate(twins, POINT, seed=0, groups=groups, neighbours=5)
    unaware = fit_gate(twins, POINT, seed=0, neighbours=1)
    assert np.mean(aware.outside(new)) < 0.1
    assert np.mean(unaware.outside(new)) > 0.2


def test_few_queries_spend_all_false_alarms_on_the_sharper_distance():
    assert gate_of(gaussian, n=100).settings.neighbour_share == 0
    assert gate_of(gaussian, n=300).settings.neighbour_share == 0.25


def test_of_very_many_queries_a_random_part_is_enough():
    gate = fit_gate(drawn(gaussian, 7000, 0)[:, :4], POINT, seed=0)
    assert (gate.settings.n_fit, gate.settings.n_calibration) == (4000, 2000)
    assert gate.references.shape == (2000, 4)


def test_a_column_that_never_varied_is_left_out():
    rows = drawn(gaussian, 300, 0)
    rows[:, 3] = 1.0
    gate = fit_gate(rows, POINT, seed=0, components=8)
    moved = rows[:5].copy()
    moved[:, 3] = 2.0
    assert np.array_equal(gate.p_value(moved), gate.p_value(rows[:5]))


def test_one_vector_of_a_real_width_takes_well_under_a_millisecond():
    rows = np.random.default_rng(0).normal(size=(1500, 896)).astype(np.float32)
    gate = fit_gate(rows, POINT, seed=0)
    seconds = []
    for row in rows[:200]:
        started = time.perf_counter()
        gate.p_value(row)
        seconds.append(time.perf_counter() - started)
    assert np.min(seconds) < 0.001


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"n": 50}, r"leave \d+ to calibrate a gate on.* need 19 and more than 10, so collect"),
        ({"false_alarm": 0.001}, "need 999"),
    ],
)
def test_too_few_queries_for_so_small_a_share_are_refused_with_the_count(options, complaint):
    with pytest.raises(TrainingDataError, match=complaint):
        gate_of(gaussian, **options)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"false_alarm": 0.0}, "false_alarm must be above 0"),
        ({"false_alarm": 1.0}, "false_alarm must be above 0"),
        ({"components": 0}, "must be at least 1, got 0 and 10"),
        ({"neighbours": 0}, "must be at least 1, got 8 and 0"),
        ({"groups": np.array(["a"])}, "1 groups do not fit 300 queries"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, complaint):
    with pytest.raises(InputError, match=complaint):
        gate_of(gaussian, **options)


def test_activations_that_are_not_finite_are_refused_with_the_count():
    rows = drawn(gaussian, 300, 0)
    rows[[3, 5], 1] = np.nan
    with pytest.raises(TrainingDataError, match="not finite in 2 of 300 queries"):
        fit_gate(rows, POINT, seed=0)
    with pytest.raises(TrainingDataError, match="are the same"):
        fit_gate(np.ones((300, 4), np.float32), POINT, seed=0)


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38])
def test_a_query_without_a_distance_is_refused(gate, value):
    row = gate.mean.copy()
    row[0] = value
    with pytest.raises(InputError, match="1 of 1 activations at layer 1, mean not finite"):
        gate.p_value(row)


@pytest.mark.parametrize("shape", [(5,), (2, 5), (1, 1, WIDTH), ()])
def test_activations_of_another_shape_are_refused(gate, shape):
    with pytest.raises(InputError, match="do not fit a gate of width 24"):
        gate.p_value(np.zeros(shape, np.float32))


def test_a_gate_is_made_again_from_its_settings_and_tensors(gate):
    again = FittedGate.from_tensors(gate.settings, gate.tensors())
    rows = drawn(low_rank, 100, 1)
    assert np.array_equal(again.p_value(rows), gate.p_value(rows))
    assert (again.read_point, again.width) == (POINT, WIDTH)


@pytest.mark.parametrize("name", _ARRAYS)
def test_a_gate_with_a_broken_array_is_refused(gate, name):
    tensors = gate.tensors()
    broken = tensors[name].copy()
    broken.flat[0] = np.inf
    for change, complaint in (
        ({name: tensors[name][None]}, "has shape|beside axes"),
        ({name: broken}, f"gate {name} holds 1 numbers"),
    ):
        with pytest.raises(InputError, match=complaint):
            FittedGate.from_tensors(gate.settings, {**tensors, **change})
    with pytest.raises(InputError, match=f"no tensor '{name}'"):
        FittedGate.from_tensors(gate.settings, {k: v for k, v in tensors.items() if k != name})


@pytest.mark.parametrize(
    "change",
    [
        {"false_alarm": 1.0},
        {"neighbour_share": -0.1},
        {"outside_variance": 0.0},
        {"outside_variance": float("nan")},
        {"neighbours": 0},
    ],
)
def test_settings_that_make_no_gate_are_refused(gate, change):
    with pytest.raises(InputError, match="the gate's"):
        replace(gate.settings, **change)


def test_more_neighbours_than_references_are_refused(gate):
    with pytest.raises(InputError, match="wanted at least the 1000 neighbours"):
        replace(gate, settings=replace(gate.settings, neighbours=1000))


def test_a_gate_is_saved_beside_its_probe(selection, card, held_out, data, tmp_path):
    gate = fit_gate(data.activations[POINT], POINT, seed=0, groups=np.asarray(data.groups))
    described = replace(card, gate=gate.settings)
    save_probe(selection.probe, described, tmp_path / "p", held_out=held_out, gate=gate)
    saved = load_probe(tmp_path / "p")
    rows = data.activations[POINT]
    assert saved.card.gate == gate.settings
    assert np.array_equal(saved.gate.p_value(rows), gate.p_value(rows))


def test_a_card_of_another_gate_is_refused(selection, card, held_out, gate, tmp_path):
    with pytest.raises(InputError, match="says gate None"):
        save_probe(selection.probe, card, tmp_path / "p", held_out=held_out, gate=gate)
