"""Why a request would be routed the way it would."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import Executor
from typing import Any

import numpy as np

from foretell.errors import RoutingError
from foretell.gateway._exchange import Exchange
from foretell.gateway._snapshot import WeakSide
from foretell.records import ReadPoint
from foretell.runtime import Considered, NearestEstimator, ProbeEstimator

Vectors = Mapping[ReadPoint, np.ndarray[Any, Any]]


async def explained(exchange: Exchange, executor: Executor) -> dict[str, Any] | None:
    """The explanation as JSON; ``None`` where nothing was there to decide by.

    Texts of training queries stay out of it: they are other people's.
    """
    side, decision, found = exchange.side, exchange.decision, exchange.considered
    if side is None or decision is None or exchange.route is None:
        return None
    # The nearest domain's own, where the request named none.
    own = exchange.route.sides.get(exchange.domain or "", side)

    def explain() -> dict[str, Any]:
        prompt = None if found is None else found.prompt
        explanation = own.explainer.explain(
            decision,
            {} if found is None else _activations(side, found, exchange),
            token_texts=None if prompt is None else side.route.engine.token_texts(prompt),
        ).as_json()
        if own is side:
            explanation["threshold"]["reason"] = side.control.bar_reason
        return explanation

    return await asyncio.get_running_loop().run_in_executor(executor, explain)


def _activations(side: WeakSide, found: Considered, exchange: Exchange) -> Vectors:
    """All that the probe reads, also where the decision was made before the prefill's end."""
    prefill, prompt, estimator = found.prefill, found.prompt, side.route.estimator
    if prefill is None or prompt is None or prefill.stopped_at is None:
        return {} if prefill is None else prefill.activations
    if not isinstance(estimator, ProbeEstimator | NearestEstimator):
        return prefill.activations
    try:
        with side.route.engine.prefill(
            prompt, estimator.read_points, answer_tokens=1, given_up=exchange.over.is_set
        ) as whole:
            return dict(whole.activations)
    except RoutingError:
        return prefill.activations
