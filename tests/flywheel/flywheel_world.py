"""A domain made up of numbers: activations that say how likely the weak model is to succeed.

Of ``WIDTH`` coordinates the first two decide; coordinate 5 marks queries of one caller, and says
nothing of success.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from foretell.records import (
    Answer,
    ModelIdentity,
    Observation,
    Origin,
    Outcome,
    Query,
    ReadPoint,
    RequestRecord,
    Subspace,
    Usage,
)
from foretell.store import Store, model_key

WIDTH, MARK = 8, 5
MODEL = ModelIdentity(
    source="made up",
    weights_sha256="a" * 64,
    chat_template_sha256="b" * 64,
    engine="none",
    n_layers=8,
    width=WIDTH,
)
KEY = model_key(MODEL)
POINTS = (ReadPoint(2), ReadPoint(5))


def vectors(n: int, rng: np.random.Generator, *, mark: float = 0.0) -> NDArray[np.float32]:
    """Activations (n, WIDTH) of queries, at the upper read point; the lower one sees less."""
    rows = rng.normal(size=(n, WIDTH))
    rows[:, MARK] = mark
    return rows.astype(np.float32)


def chance(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    """That the weak model succeeds."""
    return 1 / (1 + np.exp(-(2.0 * rows[:, 0] + 1.5 * rows[:, 1]).astype(np.float64)))


def outcomes(rows: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float64]:
    return (rng.random(len(rows)) < chance(rows)).astype(np.float64)


def opened(folder: Path, clock: Callable[[], float] = lambda: 1000.0) -> Store:
    return Store.open(f"sqlite:///{folder / 'foretell.db'}", folder / "vectors", clock=clock)


def put(
    store: Store,
    name: str,
    rows: NDArray[np.float32],
    labels: NDArray[np.float64] | None,
    *,
    split: str = "train",
    source: str = "code",
    author: str = "",
    origin: Origin = "collected",
    model: ModelIdentity = MODEL,
    subspace: Subspace | None = None,
) -> list[str]:
    """Weak answers to the queries ``name-0``, … of these activations, with their labels if any."""
    ids = [f"{name}-{i}" for i in range(len(rows))]
    read = dict(zip(POINTS, (rows * np.float32(0.5), rows), strict=True))
    if subspace is not None:
        read = subspace.reduce({point: read[point] for point in subspace.bases})
    store.append(
        [
            Observation(
                domain="made-up",
                query=Query(id=query, messages=({"role": "user", "content": query},), split=split),
                role="weak",
                answer=Answer(
                    text="",
                    model="small",
                    finish_reason="stop",
                    usage=Usage(prompt_tokens=10, completion_tokens=3),
                ),
                model=model,
                activations={point: of[i] for point, of in read.items()},
                subspace="" if subspace is None else subspace.id,
                own_tokens=8,
                origin=origin,
            )
            for i, query in enumerate(ids)
        ]
    )
    if labels is not None:
        label(store, ids, labels, source=source, author=author, model=model)
    return ids


def label(
    store: Store,
    ids: Sequence[str],
    labels: NDArray[np.float64],
    *,
    source: str = "code",
    author: str = "",
    model: ModelIdentity = MODEL,
) -> None:
    store.put_outcomes(
        [
            Outcome(
                domain="made-up",
                query_id=query,
                role="weak",
                metric="right",
                value=float(value),
                source=source,
                author=author,
            )
            for query, value in zip(ids, labels, strict=True)
        ],
        model_key=model_key(model),
    )


def request(query: str, at: float, **fields: object) -> RequestRecord:
    """A request that the weak model answered."""
    return RequestRecord(
        **{
            "id": query,
            "at": at,
            "key_id": "",
            "route": "auto",
            "domain": "made-up",
            "model": "small",
            "serve": "weak",
            "action": "keep",
            "cause": None,
            "status": 200,
            "streamed": False,
            "weak_model": KEY,
            "weak_chance": 1.0,
            **fields,
        }
    )
