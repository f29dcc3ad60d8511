"""From queries to chances: what a robustness check runs again and again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from foretell.errors import InputError
from foretell.prefill import PrefillEngine
from foretell.records import FirstToken, Query, ReadPoint, RoutingData, TokenActivations
from foretell.routers import FittedRouter, Sees

Score = Callable[[Sequence[Query]], NDArray[np.float64]]
"""Queries to the chance (n,) that the weak model succeeds at each."""


def engine_scorer(
    engine: PrefillEngine,
    router: FittedRouter,
    *,
    sees: Sees,
    domain: str,
    read_points: Sequence[ReadPoint] = (),
    parallel: int = 8,
) -> Score:
    """Scores queries by ``router`` on what ``engine`` makes of them.

    Args:
        engine: The weak model.
        router: A router fitted on activations, lengths and tokens of that model.
        sees: What it needs: for ``prefill`` every query's prefill is run, else they are only
            rendered, to count their tokens.
        domain: The domain that the queries belong to.
        read_points: Where the router reads.
        parallel: Prefills at once.

    Raises:
        InputError: The router needs the answer. The scorer raises what the engine does.
    """
    if sees == "answer":
        raise InputError(
            f"router {router.name!r} needs the weak model's answer; only routers that decide "
            "before it can be scored from queries alone"
        )
    if sees != "prefill":
        return text_scorer(
            router, own_tokens=lambda query: engine.render(query.messages).own_tokens, domain=domain
        )

    def score(queries: Sequence[Query]) -> NDArray[np.float64]:
        with ThreadPoolExecutor(parallel, thread_name_prefix="score") as pool:
            seen = list(pool.map(partial(_prefilled, engine, read_points), queries))
        data = _columns(queries, [one.own_tokens for one in seen], domain)
        first_tokens = [one.first_token for one in seen]
        return router.p_success(
            replace(
                data,
                activations={
                    point: np.stack([one.activations[point] for one in seen])
                    for point in read_points
                    if point.pooling != "tokens" and seen
                },
                sequences={
                    point: TokenActivations.stack([one.activations[point] for one in seen])
                    for point in read_points
                    if point.pooling == "tokens" and seen
                },
                first_entropy=_column(token and token.entropy for token in first_tokens),
                first_margin=_column(token and token.margin for token in first_tokens),
                model=engine.identity,
            )
        )

    return score


def text_scorer(router: FittedRouter, *, own_tokens: Callable[[Query], int], domain: str) -> Score:
    """Scores queries by a router that sees the query alone, without a model.

    ``own_tokens`` counts a query's own tokens, at which only a router on lengths looks.
    """

    def score(queries: Sequence[Query]) -> NDArray[np.float64]:
        return router.p_success(_columns(queries, list(map(own_tokens, queries)), domain))

    return score


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Seen:
    """What one prefill showed."""

    own_tokens: int
    activations: Mapping[ReadPoint, NDArray[np.float32]]
    first_token: FirstToken | None


def _prefilled(engine: PrefillEngine, read_points: Sequence[ReadPoint], query: Query) -> _Seen:
    prompt = engine.render(query.messages)
    with engine.prefill(prompt, read_points, answer_tokens=1) as prefill:
        return _Seen(
            own_tokens=prompt.own_tokens,
            activations=dict(prefill.activations),
            first_token=prefill.first_token,
        )


def _columns(queries: Sequence[Query], own_tokens: Sequence[int], domain: str) -> RoutingData:
    return RoutingData(
        domain=(domain,) * len(queries),
        ids=tuple(query.id for query in queries),
        texts=tuple(query.text for query in queries),
        groups=tuple(query.group or query.id for query in queries),
        lengths=np.array(own_tokens, dtype=np.int64),
        attributes=tuple(query.attributes for query in queries),
    )


def _column(values: Iterable[float | None]) -> NDArray[np.float64]:
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)
