"""Of several outcomes of one answer, the one that is believed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from statistics import fmean
from typing import Final

from foretell.records import Outcome, Role

TRUST: Final = ("human", "code", "judge", "client")
"""Sources, the most trusted first."""

Place = tuple[Role, str]
"""Whose answer to which query."""


def believed(outcomes: Iterable[Outcome]) -> dict[Place, float | None]:
    """Success of each answer by the most trusted source that could tell, averaged over its authors.

    ``None`` where there are outcomes and all are without a value. Give those of one metric, and of
    one model in each role.
    """
    ranked: defaultdict[Place, defaultdict[int, list[float]]]
    ranked = defaultdict(lambda: defaultdict(list))
    for one in outcomes:
        ranks = ranked[one.role, one.query_id]
        if one.value is not None:
            ranks[TRUST.index(one.source)].append(one.value)
    return {place: fmean(ranks[min(ranks)]) if ranks else None for place, ranks in ranked.items()}
