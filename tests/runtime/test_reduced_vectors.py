"""A probe that was fitted on reduced activations is asked about whole ones through the same few."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

from foretell.probes import LinearProbe, fit_gate, select_probe
from foretell.records import Basis, ModelIdentity, ReadPoint, RoutingData, Subspace
from foretell.runtime import ProbeEstimator, serving_probe
from foretell.runtime._training import save_selection

LOW, HIGH = ReadPoint(0), ReadPoint(1)
WIDTH, N = 16, 120


@pytest.fixture(scope="module")
def whole() -> RoutingData:
    """The first number at the upper layer knows the outcome; all others are large and know none."""
    generator = np.random.default_rng(0)
    latent = generator.normal(size=N)
    high = 5 * generator.normal(size=(N, WIDTH))
    high[:, 0] = latent
    return RoutingData(
        domain=("geo",) * N,
        ids=tuple(map(str, range(N))),
        texts=("?",) * N,
        groups=tuple(map(str, range(N))),
        lengths=np.ones(N, dtype=np.int64),
        attributes=({},) * N,
        activations={
            LOW: generator.normal(size=(N, WIDTH)).astype(np.float32),
            HIGH: high.astype(np.float32),
        },
        weak=(latent + 0.3 * generator.normal(size=N) > 0).astype(float),
        model=ModelIdentity(
            source="pypi:tiny",
            weights_sha256="a" * 64,
            chat_template_sha256="b" * 64,
            engine="tiny",
            n_layers=2,
            width=WIDTH,
        ),
    )


@pytest.fixture(scope="module")
def subspace() -> Subspace:
    # Mixed with other numbers, so that standardising the restored ones leads out of the subspace.
    mixed = np.linalg.qr(np.random.default_rng(1).normal(size=(WIDTH, 4)) + np.eye(WIDTH)[:, :4])[0]
    basis = Basis(centre=np.zeros(WIDTH), scale=np.ones(WIDTH), axes=mixed[:, :3], rest=mixed[:, 3])
    return Subspace(id="few", bases={LOW: basis, HIGH: basis})


@pytest.fixture(scope="module")
def reduced(whole, subspace) -> RoutingData:
    return replace(whole, activations=subspace.project(whole.activations), subspace=subspace)


def test_whole_activations_are_foretold_as_the_training_rows_were(whole, reduced, subspace):
    probe = LinearProbe(read_point=HIGH, components=3).fit(reduced, seed=0)
    gate = fit_gate(reduced.activations[HIGH], HIGH, seed=0, components=3)
    asked = ProbeEstimator(probe=probe, name="geo@2", gate=gate, subspace=subspace)
    for row in range(10):
        vectors = {point: rows[row] for point, rows in whole.activations.items()}
        found = asked.estimate(vectors, own_tokens=1)
        as_trained = float(probe.score(reduced.activations[HIGH][row]))
        assert found.score == pytest.approx(as_trained, abs=1e-3)
        assert found.familiarity == pytest.approx(
            gate.p_value(reduced.activations[HIGH][row]), abs=0.05
        )
        assert asked.familiarity(vectors) == found.familiarity


def test_a_saved_probe_brings_its_subspace_along(whole, reduced, tmp_path):
    selection = select_probe(
        reduced, kinds=("linear",), components=(3,), l2=(1.0,), nested=False, seed=0
    )
    now = datetime(2026, 1, 2, tzinfo=UTC)
    save_selection(selection, reduced, "geo", "ok", tmp_path, now=now)
    saved = serving_probe(tmp_path, "geo")
    assert saved.subspace is not None
    assert saved.subspace.id == "few"
    asked = ProbeEstimator.of(saved)
    vectors = {point: rows[0] for point, rows in whole.activations.items()}
    expected = float(saved.probe.scores(reduced)[0])
    assert asked.estimate(vectors, own_tokens=1).score == pytest.approx(expected, abs=1e-3)
