"""Made-up queries whose difficulty is known: the weak model fails where ``harder`` is high."""

from collections.abc import Callable

import numpy as np
import pytest

from foretell.records import ReadPoint, RoutingData

MakeData = Callable[..., RoutingData]

READ_POINT = ReadPoint(1, "last")


@pytest.fixture(scope="session")
def make_data() -> MakeData:
    def make(n: int = 120, seed: int = 0, noise: float = 0.5) -> RoutingData:
        rng = np.random.default_rng(seed)
        harder = rng.normal(size=n)
        words = np.where(harder > 0, "prove", "add")
        return RoutingData(
            domain=("made up",) * n,
            ids=tuple(f"{seed}-{i}" for i in range(n)),
            texts=tuple(f"{word} {i} and {i + 1}" for i, word in enumerate(words)),
            groups=tuple(f"{seed}-{i // 2}" for i in range(n)),
            lengths=np.maximum(1, (20 + 6 * harder).astype(np.int64)),
            attributes=tuple({"hard": bool(h > 0), "place": i % 3} for i, h in enumerate(harder)),
            activations={
                READ_POINT: (
                    np.outer(harder, np.arange(1, 9)) + rng.normal(size=(n, 8))
                ).astype(np.float32),
                ReadPoint(2, "mean"): rng.normal(size=(n, 8)).astype(np.float32),
            },
            first_entropy=np.where(rng.random(n) < 0.1, np.nan, 1 + 0.2 * harder),
            answer_logprob=-1 - 0.2 * harder,
            weak=(harder + noise * rng.normal(size=n) < 0).astype(np.float64),
            strong=(rng.random(n) < 0.8).astype(np.float64),
        )

    return make


@pytest.fixture(scope="session")
def encode() -> Callable[..., np.ndarray]:
    """A stand-in for the sentence encoder: letter counts, of unit length."""

    def vectors(texts: list[str]) -> np.ndarray:
        counts = np.ones((len(texts), 27), np.float32)
        for row, text in enumerate(texts):
            for letter in text.lower():
                counts[row, (ord(letter) - 97) % 27] += 1
        return counts / np.linalg.norm(counts, axis=1, keepdims=True)

    return vectors
