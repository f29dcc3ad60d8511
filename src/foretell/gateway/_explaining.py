"""Why a request would be routed the way it would."""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor
from typing import Any

from foretell.gateway._exchange import Exchange


async def explained(exchange: Exchange, executor: Executor) -> dict[str, Any] | None:
    """The explanation as JSON; ``None`` where nothing was there to decide by.

    Texts of training queries stay out of it: they are other people's.
    """
    side, decision = exchange.side, exchange.decision
    if side is None or decision is None:
        return None
    found = exchange.considered
    prefill = None if found is None else found.prefill

    def explain() -> dict[str, Any]:
        texts = None if prefill is None else side.route.engine.token_texts(prefill.prompt)
        explanation = side.explainer.explain(
            decision, {} if prefill is None else prefill.activations, token_texts=texts
        ).as_json()
        explanation["threshold"]["reason"] = side.control.bar_reason
        return explanation

    return await asyncio.get_running_loop().run_in_executor(executor, explain)
