"""What a probe foretells of reduced activations is what it foretells of whole ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from foretell.errors import InputError
from foretell.probes import (
    AttentionProbe,
    FusionProbe,
    LinearProbe,
    MixProbe,
    MlpProbe,
    SavedProbe,
    SeveralProbe,
    fit_gate,
    fit_heads,
    load_probe,
    save_probe,
    subspace_of,
)
from foretell.records import Basis, ReadPoint, Subspace, TokenActivations

POINTS = [ReadPoint(layer, "mean") for layer in range(3)]

KINDS = {
    "linear": LinearProbe(read_point=POINTS[1], components=6),
    "several": SeveralProbe(read_points=tuple(POINTS[:2]), components=6),
    "mix": MixProbe(read_points=tuple(POINTS[:2]), components=6),
    "mlp": MlpProbe(read_points=tuple(POINTS[:2]), components=4, hidden=(4,), members=2),
    "fusion": FusionProbe(base=LinearProbe(read_point=POINTS[1], components=6)),
}


@pytest.fixture(scope="module")
def wide(make_data):
    """Twice as wide as any subspace here, with outcomes of the strong model and lengths."""
    data = make_data(240, width=48)
    generator = np.random.default_rng(5)
    return replace(
        data,
        strong=(generator.random(len(data)) < 0.7).astype(float),
        weak_tokens=generator.integers(1, 50, len(data)).astype(float),
        first_entropy=generator.random(len(data)),
        first_margin=generator.random(len(data)),
    )


def saved_of(probe, card, held_out, **parts):
    return SavedProbe(probe=probe, card=card, held_out=held_out, **parts)


def as_stored(vectors):
    """In the float16 that they are kept in."""
    return {point: rows.astype(np.float16).astype(np.float32) for point, rows in vectors.items()}


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=pytest.mark.torch) if kind == "mlp" else kind for kind in KINDS],
)
@pytest.mark.parametrize("with_gate", [True, False], ids=["gate", "no gate"])
def test_restored_activations_are_foretold_the_same(kind, with_gate, wide, card, held_out):
    probe = KINDS[kind].fit(wide, seed=1)
    gate = fit_gate(wide.activations[POINTS[1]], POINTS[1], seed=1, components=8)
    heads = fit_heads(wide, POINTS[:2], seed=1).heads
    early = saved_of(
        LinearProbe(read_point=POINTS[0], components=3).fit(wide, seed=1), card, held_out
    )
    saved = saved_of(probe, card, held_out, gate=gate if with_gate else None, heads=heads)
    subspace = subspace_of(saved, [early])
    reduced = as_stored(
        subspace.reduce({point: wide.activations[point] for point in subspace.bases})
    )
    restored = subspace.restore(reduced)
    assert all(rows.shape[1] < 48 for rows in reduced.values())
    again = replace(wide, activations={**restored, POINTS[2]: wide.activations[POINTS[2]]})
    np.testing.assert_allclose(probe.scores(again), probe.scores(wide), atol=0.03)
    np.testing.assert_allclose(early.probe.scores(again), early.probe.scores(wide), atol=0.03)
    np.testing.assert_allclose(
        heads.strong.p_strong(again.activations[heads.strong.read_point]),
        heads.strong.p_strong(wide.activations[heads.strong.read_point]),
        atol=0.01,
    )
    tokens = heads.tokens
    np.testing.assert_allclose(
        tokens.expected_tokens(again.activations[tokens.read_point]),
        tokens.expected_tokens(wide.activations[tokens.read_point]),
        rtol=0.01,
    )
    if with_gate:
        np.testing.assert_allclose(
            gate.distances(again.activations[POINTS[1]])[0],
            gate.distances(wide.activations[POINTS[1]])[0],
            rtol=0.01,
        )
        # A p-value is a step of 1/80 here, and rounding may pass one step.
        np.testing.assert_allclose(
            gate.p_value(again.activations[POINTS[1]]),
            gate.p_value(wide.activations[POINTS[1]]),
            atol=0.05,
        )


def test_foreign_activations_stay_as_foreign_to_the_gate(wide, card, held_out):
    probe = KINDS["linear"].fit(wide, seed=1)
    gate = fit_gate(wide.activations[POINTS[1]], POINTS[1], seed=1, components=8)
    subspace = subspace_of(saved_of(probe, card, held_out, gate=gate))
    foreign = wide.activations[POINTS[1]] + 40 * np.random.default_rng(0).normal(
        size=(len(wide), 48)
    ).astype(np.float32)
    basis = subspace.bases[POINTS[1]]
    restored = basis.restore(basis.reduce(foreign))
    np.testing.assert_allclose(gate.distances(restored), gate.distances(foreign), rtol=1e-3)
    assert gate.outside(foreign).mean() > 0.9


def test_projecting_twice_changes_nothing_more(wide, card, held_out):
    gate = fit_gate(wide.activations[POINTS[1]], POINTS[1], seed=1, components=8)
    probe = KINDS["linear"].fit(wide, seed=1)
    subspace = subspace_of(saved_of(probe, card, held_out, gate=gate))
    once = subspace.project({POINTS[1]: wide.activations[POINTS[1]]})
    twice = subspace.project(once)
    np.testing.assert_allclose(twice[POINTS[1]], once[POINTS[1]], rtol=1e-4, atol=1e-2)


def test_what_the_probe_does_not_read_is_gone(wide, card, held_out):
    probe = KINDS["several"].fit(wide, seed=1)
    subspace = subspace_of(saved_of(probe, card, held_out))
    assert {basis.size for basis in subspace.bases.values()} == {1}  # one weight vector each


def test_one_activation_is_reduced_like_many(wide, card, held_out):
    gate = fit_gate(wide.activations[POINTS[1]], POINTS[1], seed=1, components=8)
    subspace = subspace_of(saved_of(KINDS["linear"].fit(wide, seed=1), card, held_out, gate=gate))
    rows = wide.activations[POINTS[1]]
    many = subspace.reduce({POINTS[1]: rows[:3]})[POINTS[1]]
    one = subspace.reduce({POINTS[1]: rows[2]})[POINTS[1]]
    np.testing.assert_allclose(one, many[2], rtol=1e-4, atol=1e-4)


def test_the_name_follows_from_the_weights(wide, card, held_out):
    probe = KINDS["linear"].fit(wide, seed=1)
    first = replace(card, weights_sha256="a" * 64)
    other = replace(card, weights_sha256="b" * 64)
    ids = [subspace_of(saved_of(probe, one, held_out)).id for one in (first, other, first)]
    assert ids[0] == ids[2] != ids[1]


@pytest.mark.torch
def test_an_attention_probe_has_no_subspace(make_data, card, held_out):
    data = make_data(60)
    point = ReadPoint(1, "tokens")
    rows = [row[None] for row in data.activations[POINTS[1]]]
    data = replace(data, sequences={point: TokenActivations.stack(rows)})
    probe = AttentionProbe(read_point=point, members=1, heads=1).fit(data, seed=0)
    with pytest.raises(InputError, match=r"every token .* keep full vectors"):
        subspace_of(saved_of(probe, card, held_out))


def test_a_probe_keeps_to_the_subspace_that_it_was_fitted_on(
    tmp_path, selection, data, card, held_out
):
    gate = fit_gate(data.activations[POINTS[1]], POINTS[1], seed=1, components=8)
    subspace = subspace_of(saved_of(selection.probe, card, held_out, gate=gate))
    save_probe(selection.probe, card, tmp_path / "1", held_out=held_out, subspace=subspace)
    saved = load_probe(tmp_path / "1")
    again = subspace_of(saved)
    assert again.id == subspace.id
    for name, array in subspace.tensors().items():
        np.testing.assert_array_equal(again.tensors()[name], array)


def test_a_subspace_names_the_read_point_it_lacks():
    basis = Basis(centre=np.zeros(2), scale=np.ones(2), axes=np.eye(2)[:, :1], rest=np.empty(0))
    subspace = Subspace(id="s", bases={POINTS[0]: basis})
    with pytest.raises(InputError, match="no basis for layer1_mean; it has layer0_mean"):
        subspace.reduce({POINTS[1]: np.zeros(2, dtype=np.float32)})
    with pytest.raises(InputError, match=r"shape \(3,\) do not fit a basis from 2 to 1"):
        subspace.reduce({POINTS[0]: np.zeros(3, dtype=np.float32)})
    with pytest.raises(InputError, match=r"no array 'layer0_mean\.scale'"):
        Subspace.from_tensors("s", {"layer0_mean.centre": np.zeros(2)})


def test_a_basis_whose_parts_do_not_fit_is_refused():
    with pytest.raises(InputError, match="does not fit together"):
        Basis(centre=np.zeros(2), scale=np.ones(3), axes=np.eye(2), rest=np.empty(0))
    with pytest.raises(InputError, match="not finite"):
        Basis(centre=np.array([np.nan]), scale=np.ones(1), axes=np.eye(1), rest=np.empty(0))


@settings(max_examples=40, deadline=None)
@given(
    hnp.arrays(np.float32, (5, 6), elements=st.floats(-100, 100, width=32)),
    hnp.arrays(np.float64, (6, 2), elements=st.floats(-1, 1)),
    hnp.arrays(np.float32, (6,), elements=st.floats(0.125, 8, width=32)),
)
def test_what_is_linear_in_the_axes_and_the_length_survive_a_reduction(rows, seeds, scale):
    frame = np.linalg.qr(np.column_stack([seeds + np.eye(6)[:, :2] * 4, np.eye(6)[:, 2]]))[0]
    basis = Basis(centre=np.ones(6), scale=scale, axes=frame[:, :2], rest=frame[:, 2])
    restored = basis.project(rows)
    before, after = (rows - 1) * scale, (restored - 1) * scale
    np.testing.assert_allclose(after @ basis.axes, before @ basis.axes, atol=1e-2)
    lengths = [np.linalg.norm(standard, axis=1) for standard in (after, before)]
    np.testing.assert_allclose(*lengths, rtol=1e-3, atol=1e-2)
