"""A small training set whose second layer knows the outcome."""

from datetime import UTC, datetime

import numpy as np
import pytest

from foretell.probes import HeldOut, LabelDefinition, describe, select_probe
from foretell.records import ModelIdentity, ReadPoint, RoutingData

WIDTH = 24


def made_up(n=200, *, width=WIDTH, seed=0, layers=3, group_size=2):
    """Layer 1 carries the outcome, the others carry less of it or nothing."""
    generator = np.random.default_rng(seed)
    latent = generator.normal(size=n)
    weak = (latent + 0.5 * generator.normal(size=n) > 0).astype(float)
    activations = {}
    for layer in range(layers):
        noise = 3 * generator.normal(size=(n, width)) + generator.normal(size=width) * 50
        signal = np.outer(latent, generator.normal(size=width)) * (3.0 if layer == 1 else 0.0)
        activations[ReadPoint(layer, "mean")] = (noise + signal).astype(np.float32)
    return RoutingData(
        domain=("geo",) * n,
        ids=tuple(f"q{i}" for i in range(n)),
        texts=("?",) * n,
        groups=tuple(f"g{i // group_size}" for i in range(n)),
        lengths=np.ones(n, dtype=np.int64),
        attributes=({},) * n,
        activations=activations,
        weak=weak,
        model=ModelIdentity(
            source="pypi:tiny",
            weights_sha256="a" * 64,
            chat_template_sha256="b" * 64,
            engine="tiny",
            n_layers=layers,
            width=width,
        ),
    )


@pytest.fixture(scope="session")
def make_data():
    return made_up


@pytest.fixture(scope="session")
def data():
    return made_up()


@pytest.fixture(scope="session")
def selection(data):
    return select_probe(
        data, kinds=("linear",), components=(4, 8), l2=(1.0, 100.0), nested=False, seed=0
    )


@pytest.fixture(scope="session")
def card(selection, data):
    return describe(
        selection,
        data,
        id="geo",
        version=3,
        domain="geo",
        label=LabelDefinition(metric="json_field", source="code"),
        now=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    )


@pytest.fixture(scope="session")
def held_out(selection):
    strong = np.ones(len(selection.outcomes))
    strong[0] = np.nan  # nobody labelled it
    return HeldOut(p_success=selection.p_success, weak=selection.outcomes, strong=strong)
