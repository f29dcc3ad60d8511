"""Parts of ``evaluate`` that look at the configuration, or run the weak model again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from foretell.errors import InputError
from foretell.evaluation import (
    DEFAULT_PRICES,
    Evaluation,
    Extras,
    Prices,
    engine_scorer,
    gather_robustness,
)
from foretell.records import RoutingData
from foretell.routers import FittedProbeRouter
from foretell.runtime import Foretell
from foretell.store import Store

_ATTACKED = 12


def prices_of(ft: Foretell, route: str | None) -> Prices:
    """Those of the route's models where both have one; else the documented ones."""
    if route is None and len(ft.config.routes) != 1:
        return DEFAULT_PRICES
    chosen = ft.route_config(route)
    weak, strong = (ft.config.models[name].price for name in (chosen.weak, chosen.strong[0]))
    return Prices(weak=weak, strong=strong) if weak and strong else DEFAULT_PRICES


def measured_robustness(
    ft: Foretell,
    store: Store,
    evaluation: Evaluation,
    test: RoutingData,
    extras: Extras,
    *,
    count: int,
    seed: int,
    route: str | None,
    say: Callable[[str], None],
) -> Extras:
    """The extras with the probe's flip rates on ``count`` test queries, and a string against it.

    Decisions are those at the median chance of the test queries: as many kept as escalated.
    """
    probe = evaluation.fitted.get("probe")
    if not isinstance(probe, FittedProbeRouter):
        raise InputError("robustness is measured for the probe, which takes no part here")
    domain = test.domain[0]
    by_id = {query.id: query for query in store.queries(domain)}
    rng = np.random.default_rng(seed + 2)
    wanted = count + _ATTACKED
    drawn = rng.permutation(len(test))[:wanted]
    queries = [by_id[test.ids[row]] for row in drawn]
    if len(queries) < wanted:
        raise InputError(
            f"robustness on {count} queries takes {wanted} test queries with those that the "
            f"attack is made on, and there are {len(queries)}; ask for fewer"
        )
    engine = ft.open_engine(ft.route_config(route).weak, progress=say)
    score = engine_scorer(
        engine, probe, sees="prefill", domain=domain, read_points=probe.probe.read_points
    )
    bar = float(np.median(probe.p_success(test)))
    say("changing queries and attacking the probe")
    rows, confounder = gather_robustness(queries, score, bar, rng, attacked=_ATTACKED)
    return replace(extras, robustness=rows, confounder=confounder)
