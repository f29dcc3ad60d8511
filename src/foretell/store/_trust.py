"""Which of several outcomes of one answer counts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from statistics import fmean
from typing import Any, Final

TRUST: Final = ("human", "code", "judge", "client")
"""Sources of outcomes, the most trusted first."""


def most_trusted(rows: Iterable[Any], model_of: Callable[[str], str | None]) -> dict[str, float]:
    """Success by query: of the most trusted source, averaged over its authors.

    Args:
        rows: Rows of ``outcomes`` in one role, with a value.
        model_of: Key of the model whose answer to a query it is about, ``None`` for any. An outcome
            of no model counts where there is none of this very one.
    """
    ranked: defaultdict[str, defaultdict[tuple[bool, int], list[float]]]
    ranked = defaultdict(lambda: defaultdict(list))
    for row in rows:
        key = model_of(row.query_id)
        if key is None or row.model_key in (key, ""):
            rank = (key is not None and row.model_key != key, TRUST.index(row.source))
            ranked[row.query_id][rank].append(row.value)
    return {query_id: fmean(ranks[min(ranks)]) for query_id, ranks in ranked.items()}
