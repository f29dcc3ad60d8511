"""Made-up queries that get harder along one hidden number, which every column shows a little."""

import numpy as np
import pytest

from foretell.records import ReadPoint, RoutingData
from foretell.routers import embedding_router, make_router


def made_up(n=120, *, seed=0):
    generator = np.random.default_rng(seed)
    harder = generator.normal(size=n)
    words = np.where(harder > 0, "prove", "add")
    return RoutingData(
        domain=("made up",) * n,
        ids=tuple(f"{seed}-{i}" for i in range(n)),
        texts=tuple(f"{word} {i} and {i + 1}" for i, word in enumerate(words)),
        groups=tuple(f"{seed}-{i // 2}" for i in range(n)),
        lengths=np.maximum(1, (20 + 6 * harder).astype(np.int64)),
        attributes=tuple({"hard": bool(h > 0), "place": i % 3} for i, h in enumerate(harder)),
        activations={
            ReadPoint(1, "last"): (
                np.outer(harder, np.arange(1, 9)) + generator.normal(size=(n, 8))
            ).astype(np.float32),
            ReadPoint(2, "mean"): generator.normal(size=(n, 8)).astype(np.float32),
        },
        first_entropy=np.where(generator.random(n) < 0.1, np.nan, 1 + 0.2 * harder),
        answer_logprob=-1 - 0.2 * harder,
        weak=(harder + 0.5 * generator.normal(size=n) < 0).astype(np.float64),
    )


def letter_counts(texts):
    """A stand-in for the sentence encoder: unit vectors, (texts, 27)."""
    counts = np.ones((len(texts), 27), np.float32)
    for row, text in enumerate(texts):
        for letter in text.lower():
            counts[row, ord(letter) % 27] += 1
    return counts / np.linalg.norm(counts, axis=1, keepdims=True)


def router_of(name):
    return embedding_router(letter_counts) if name == "embedding" else make_router(name)


@pytest.fixture
def make_data():
    return made_up


@pytest.fixture
def encode():
    return letter_counts


@pytest.fixture
def make():
    """The router of a name, with a stand-in for weights that would have to be fetched."""
    return router_of


@pytest.fixture(scope="session")
def fitted():
    """Every router by name, fitted once on the same queries."""
    cache = {}

    def of(name):
        if name not in cache:
            cache[name] = router_of(name).fit(made_up(), np.random.default_rng(1))
        return cache[name]

    return of
