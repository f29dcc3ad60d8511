"""Made-up queries that get harder along one hidden number, which the activations show."""

import numpy as np
import pytest

from foretell.evaluation import evaluate_routers
from foretell.records import ModelIdentity, ReadPoint, RoutingData
from foretell.routers import embedding_router, make_router

MODEL = ModelIdentity(
    source="pypi:tiny",
    weights_sha256="a" * 64,
    chat_template_sha256="b" * 64,
    engine="tiny",
    n_layers=3,
    width=16,
)


def made_up(n=150, *, seed=0):
    generator = np.random.default_rng(seed)
    harder = generator.normal(size=n)
    names = generator.integers(97, 123, (n, 12))
    return RoutingData(
        domain=("made up",) * n,
        ids=tuple(f"{seed}-{i}" for i in range(n)),
        texts=tuple(f"Where is {bytes(name.tolist()).decode()}?" for name in names),
        groups=tuple(f"{seed}-{i // 2}" for i in range(n)),
        lengths=generator.integers(5, 12, n),
        attributes=({},) * n,
        activations={
            ReadPoint(layer, pooling): (
                np.outer(harder, np.arange(16)) * layer + 10 * generator.normal(size=(n, 16))
            ).astype(np.float32)
            for layer in range(3)
            for pooling in ("last", "mean")
        },
        weak=(harder + 0.5 * generator.normal(size=n) < 0).astype(np.float64),
        strong=(generator.random(n) < 0.8).astype(np.float64),
        model=MODEL,
    )


def letter_counts(texts):
    counts = np.ones((len(texts), 27), np.float32)
    for row, text in enumerate(texts):
        for letter in text.lower():
            counts[row, ord(letter) % 27] += 1
    return counts / np.linalg.norm(counts, axis=1, keepdims=True)


def every_router():
    names = ("probe", "tfidf", "length", "random", "weak")
    return [embedding_router(letter_counts), *map(make_router, names)]


@pytest.fixture
def make_data():
    return made_up


@pytest.fixture
def make_routers():
    return every_router


@pytest.fixture(scope="session")
def train():
    return made_up(200, seed=1)


@pytest.fixture(scope="session")
def test_set():
    return made_up(150, seed=2)


@pytest.fixture(scope="session")
def evaluation(train, test_set):
    """One comparison, for tests that only look at it."""
    return evaluate_routers(train, test_set, every_router(), np.random.default_rng(0))
