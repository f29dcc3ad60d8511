"""Which routers are compared, and the table that shows them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from foretell.errors import InputError
from foretell.evaluation import Evaluation, Interval
from foretell.records import RoutingData
from foretell.routers import Router, available_routers, make_router

_COMPARED = (
    "probe",
    "gain",
    "embedding",
    "knn",
    "tfidf",
    "mf",
    "sw_ranking",
    "length",
    "keyword",
    "domain",
    "random",
    "first_token_entropy",
    "answer_logprob",
)
_STRONG_LABELS = 100


def compared_routers(
    train: RoutingData, *, probe: Router | None = None, names: Sequence[str] | None = None
) -> list[Router]:
    """The activation router and every baseline that the data has the signals for.

    ``probe`` stands in for the default one, as when it was trained already. ``names`` asks for
    others than the usual ones, the probe besides. The cascade's first stage is a linear probe.
    """
    if names is not None:
        unknown = sorted(set(names) - set(available_routers()))
        if unknown:
            raise InputError(
                f"there is no router {unknown[0]!r}; use some of {', '.join(available_routers())}"
            )
    has_signal = {
        "gain": _known(train.strong, at_least=_STRONG_LABELS),
        "first_token_entropy": _known(train.first_entropy, at_least=len(train)),
        "answer_logprob": _known(train.answer_logprob, at_least=len(train)),
    }
    wanted = ["probe", *(name for name in names or _COMPARED if name != "probe")]
    return [
        probe if probe and name == "probe" else make_router(name)
        for name in dict.fromkeys(wanted)
        if names is not None or has_signal.get(name, True)
    ]


def _known(column: NDArray[np.float64], *, at_least: int) -> bool:
    return bool(column.size) and int(np.isfinite(column).sum()) >= at_least


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
