"""Which routers are compared, and the table that shows them."""

from __future__ import annotations

import numpy as np
from rich.table import Table

from foretell.evaluation import Evaluation, Interval
from foretell.records import RoutingData
from foretell.routers import Router, make_router

_COMPARED = ("probe", "embedding", "tfidf", "length", "keyword", "domain", "random")


def compared_routers(train: RoutingData, *, probe: Router | None = None) -> list[Router]:
    """The activation router and every baseline, with the signals that the data has besides.

    ``probe`` stands in for the default one, as when it was trained already.
    """
    routers = [probe if probe and name == "probe" else make_router(name) for name in _COMPARED]
    signals = {
        "first_token_entropy": train.first_entropy,
        "answer_logprob": train.answer_logprob,
    }
    routers += [
        make_router(name)
        for name, column in signals.items()
        if column.size and np.isfinite(column).all()
    ]
    return routers


def router_table(evaluation: Evaluation) -> Table:
    """AUROC (over all, and on the middle third), APGR and CPT of every router."""
    table = Table(box=None, pad_edge=False)
    # Fits 80 columns.
    for heading in ("router", "sees", "AUROC", "95 %", "middle", "APGR", "CPT50", "CPT80"):
        table.add_column(heading, no_wrap=True)
    middle = next((s for s in evaluation.slices if s.name == "middle third"), None)
    for row in evaluation.routers:
        style = "bold" if row.name == "probe" else "dim" if row.sees == "answer" else None
        table.add_row(
            row.name,
            row.sees,
            _plain(row.auroc),
            _bounds(row.auroc),
            _plain(middle.auroc[row.name]) if middle else "",
            _plain(row.apgr),
            _percent(row.cpt50),
            _percent(row.cpt80),
            style=style,
        )
    return table


def _bounds(interval: Interval) -> str:
    if interval.low is None or interval.high is None:
        return "–"
    return f"{interval.low:.2f} to {interval.high:.2f}"


def _plain(interval: Interval) -> str:
    return "–" if interval.value is None else f"{interval.value:.3f}"


def _percent(interval: Interval) -> str:
    return "–" if interval.value is None else f"{interval.value:.0%}"
